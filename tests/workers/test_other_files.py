"""What is no recording is refused with what it is, and what to do about it."""

import gzip
import io
import tarfile

import pytest

from tests.workers.test_decode import refusal
from workers.other_files import name_other


def tar_gz():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.wav"))
    return out.getvalue()


def riff(form):
    return b"RIFF\x40\0\0\0" + form + bytes(64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (gzip.compress(b"RIFF" * 100), "gzip: unpack it"),
        (tar_gz(), "source.tar"),
        (gzip.compress(b"RIFF" * 100)[:12], "unpack it"),
        (b"\x1f\x8b" + bytes(range(100)), "unpack it"),
        (b"\xef\xbb\xbf\r\n<html>", "HTML"),
        (b'<?xml version="1.0"?><Error/>', "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b'[{"error": "not found"}]', "JSON"),
        (bytes(5000), "zeros"),
        (bytes(1), "zeros"),
        (b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk", "MIDI"),
        (riff(b"RMID"), "MIDI"),
        (riff(b"QLCM"), "QCP"),
        (riff(b"XWMA"), "xWMA"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000), "._ file"),
        (b"DSD \x1c\0\0\0", "DSF"),
        (b"\x02#!SILK_V3", "SILK"),
    ],
)
def test_a_well_known_file_is_named(content, words):
    error = refusal(content)
    assert error.code == "not_audio"
    assert words in error.message
    assert (words == "source.tar") == ("source.tar" in error.message)


@pytest.mark.parametrize("head", [b"", b"<3", b"[00:01.00] a line", b"{", b"404 page not found", b"\0\0\0\1"])
def test_what_might_be_anything_is_not_named(head):
    assert name_other(head) is None
