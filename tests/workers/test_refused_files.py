"""What is no recording, or cannot be read, and what the failure says of it."""

import io
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.recordings import BARER, RATE, delay_and_likeness, heard, mp3, muxed, refusal, sphere


def m4a(sample_entry=b"mp4a", first=b""):
    """An M4A whose index is at its end, before which `first` stands."""
    content = muxed("ipod", "aac", 44_100, 64_000)
    samples = content.index(b"mdat") - 4
    offsets = content.index(b"stco") + 12
    told = struct.unpack_from(">I", content, offsets)[0]
    assert told == samples + 8
    content = content[:offsets] + struct.pack(">I", told + len(first)) + content[offsets + 4 :]
    return first + content.replace(b"mp4a", sample_entry)


@pytest.mark.parametrize("box", [b"pnot", b"uuid", b"styp"])
def test_an_mp4_that_begins_with_another_box_is_heard(box):
    _, ending, found = heard(m4a(first=struct.pack(">I4s", 24, box) + bytes(16)))
    assert ending.damage is None
    assert delay_and_likeness(found)[1] > 0.99


@pytest.mark.parametrize("entry", [b"drms", b"enca", b"aavd"])
def test_an_encrypted_mp4_is_refused_as_such(entry):
    content = bytearray(m4a(entry))
    samples, index = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[samples:index] = np.random.default_rng(1).bytes(index - samples)
    error = refusal(bytes(content))
    assert error.code == "unreadable"
    assert "encrypted" in error.message
    assert entry.decode() in error.message


def test_an_mp4_without_its_index_is_refused_as_such():
    content = m4a()
    fragments = muxed("mp4", "aac", RATE, 64_000, options={"movflags": "frag_keyframe+empty_moov"})
    endless = struct.pack(">I4sI4s", 16, b"ftyp", 0, b"M4A ") + struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1) + bytes(99)
    for part in (content[: content.index(b"moov") - 4], fragments[fragments.index(b"moof") - 4 :], endless):
        error = refusal(part)
        assert error.code == "unreadable"
        assert "index (moov)" in error.message


@pytest.mark.parametrize("coding", ["pcm,embedded-shorten-v2.00", "ulaw,embedded-wavpack-v1.0"])
def test_a_compressed_sphere_is_refused_with_what_unpacks_it(coding):
    error = refusal(sphere(b"ajkg\x02" + bytes(30_000), coding))
    assert error.code == "unreadable"
    assert "sph2pipe" in error.message
    assert coding.split("-")[1] in error.message


def test_a_picture_in_an_mp4s_boxes_is_called_one():
    assert "picture" in refusal(struct.pack(">I4s4sI4s", 24, b"ftyp", b"heic", 0, b"mif1") + bytes(500)).message


@pytest.mark.parametrize("form", ["tar", "zip", "pdf", "parquet"])
def test_what_holds_recordings_is_none_itself(form):
    """And the failure names the source that reads an archive."""
    out, clips = io.BytesIO(), {f"{number}.mp3": mp3(BARER) for number in range(3)}
    if form == "tar":
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, content in clips.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    elif form == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in clips.items():
                archive.writestr(name, content)
    elif form == "parquet":
        pq.write_table(pa.table({"audio": list(clips.values())}), out, compression="none")
    else:
        out.write(b"%PDF-1.4\n" + clips["0.mp3"])
    assert refusal(out.getvalue()).code == "not_audio"


def test_frames_far_from_the_beginning_are_no_recording():
    assert refusal(bytes(range(1, 200)) * 12 + mp3(BARER)).code == "not_audio"


@pytest.mark.parametrize("text", [b"\xff\xfe" + "Grüße\n".encode("utf-16-le") * 400, b"\xff" * 4096, bytes(4096)])
def test_what_has_sync_words_without_frames_is_no_audio(text):
    assert refusal(text).code == "not_audio"
