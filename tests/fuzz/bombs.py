"""Small files that claim, or hold, far more than they weigh."""

import struct
from collections.abc import Callable

from tests.fuzz import flac, ogg
from tests.fuzz.boxes import box, replaced
from tests.fuzz.mutations import Mutant
from tests.fuzz.seeds import seeds

LARGEST = 2**32 - 1


def flac_of_hours(channels: int = 1) -> bytes:
    """Ten hours of silence at 16 kHz, some 12 bytes for four seconds."""
    return flac.silence(10 * 3600 * 16_000 // flac.LARGEST_BLOCK, channels=channels)


def flac_that_claims_more() -> bytes:
    """Two frames under a header that claims 2**36 - 1 samples: 50 days."""
    return flac.silence(2, total=2**36 - 1)


def flac_with_a_gigantic_picture() -> bytes:
    """A picture that says it has 4 GiB, in a block that says it has 16 MiB; audio behind it."""
    picture = struct.pack(">III", 3, 9, LARGEST) + b"image/png" + struct.pack(">I", LARGEST) + bytes(100)
    head = b"fLaC" + flac.block(0, flac.stream_info(16_000, 1, flac.LARGEST_BLOCK))
    return head + flac.block(6, picture, last=True, size=0xFF_FFFF) + flac.frame(0)


def flac_with_a_million_tags() -> bytes:
    """A comment block that claims 2**32 - 1 tags of 4 GiB each."""
    comment = struct.pack("<II", 0, LARGEST) + struct.pack("<I", LARGEST) * 20
    head = b"fLaC" + flac.block(0, flac.stream_info(16_000, 1, flac.LARGEST_BLOCK))
    return head + flac.block(4, comment, last=True) + flac.frame(0)


def _opus(packet: bytes, packet_samples: int, pages: int, channels: int = 1) -> bytes:
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, channels, 312, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<II", 0, 0)
    body = [
        ogg.page([packet] * 255, (number + 1) * 255 * packet_samples, number + 2, 4 * (number == pages - 1))
        for number in range(pages)
    ]
    return ogg.page([head], 0, 0, 2) + ogg.page([tags], 0, 1) + b"".join(body)


def opus_of_hours() -> bytes:
    """Two hours of silence: packets of one byte, two frames of 60 ms of nothing each."""
    return _opus(b"\x19", 5_760, 236)


def ogg_of_tiny_pages() -> bytes:
    """A good head, then 200 000 pages of no packet at all."""
    good = ogg.page([b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 312, 48_000, 0, 0)], 0, 0, 2)
    return good + ogg.page([b"OpusTags" + struct.pack("<II", 0, 0)], 0, 1) + ogg.page([], -1, 2) * 200_000


def ogg_of_many_streams() -> bytes:
    """Twenty thousand logical streams, each begun and none of them gone on with."""
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 312, 48_000, 0, 0)
    return b"".join(ogg.page([head], 0, 0, 2, serial) for serial in range(20_000))


def ogg_with_gigantic_tags() -> bytes:
    """OpusTags whose vendor's name says it has 4 GiB."""
    opus = seeds()["ogg-opus"].content
    at = opus.index(b"OpusTags") + 8
    return ogg.repaired(opus[:at] + struct.pack("<I", LARGEST) + opus[at + 4 :])


def mp3_behind_a_gigantic_id3() -> bytes:
    """A tag that says it has 256 MiB, and an MP3."""
    return b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + seeds()["mp3"].content


def mp3_with_a_gigantic_picture() -> bytes:
    """A tag whose one frame, a picture, says it has 4 GiB."""
    frame = b"APIC" + struct.pack(">IH", LARGEST, 0) + bytes(200)
    return b"ID3\x03\x00\x00\x00\x00\x01\x52" + frame + seeds()["mp3"].content


def mp3_of_many_tags() -> bytes:
    """Twenty thousand ID3 tags, one after the other."""
    return (b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)) * 20_000 + seeds()["mp3"].content


def wavex_of_channels(channels: int = 4_096) -> bytes:
    """A WAVE_FORMAT_EXTENSIBLE of `channels` channels, one frame of each."""
    body = bytes(2 * channels * 64)
    sub = b"\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    rate = 16_000
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, channels, rate, rate * channels * 2 & LARGEST, channels * 2, 16, 22, 16, 0)
    chunks = b"fmt " + struct.pack("<I", 40) + fmt + sub + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def mp4_of_many_equal_samples(count: int = LARGEST) -> bytes:
    """A table of sizes that says: `count` samples of one byte; eight bytes for all."""
    return replaced(seeds()["m4a"].content, b"stsz", struct.pack(">III", 0, 1, count))


def mp4_of_forty_million_samples() -> bytes:
    """The same, but as many as make an index of some gigabytes, in one chunk."""
    content = mp4_of_many_equal_samples(40_000_000)
    at = content.index(b"stsc") + 4
    return content[: at + 12] + struct.pack(">I", 40_000_000) + content[at + 16 :]


def mp4_of_long_samples() -> bytes:
    """A table of times that says: 2**32 - 1 samples of 2**32 - 1 ticks."""
    return replaced(seeds()["m4a"].content, b"stts", struct.pack(">IIII", 0, 1, LARGEST, LARGEST))


def mp4_of_nested_boxes() -> bytes:
    """Twenty thousand boxes, each in the one before."""
    head = b"".join(struct.pack(">I", 8 * (20_000 - depth)) + b"moov" for depth in range(20_000))
    return box(b"ftyp", b"isom", bytes(4)) + head


def mp4_with_a_gigantic_box() -> bytes:
    """A box of 2**63 - 1 bytes."""
    return box(b"ftyp", b"isom", bytes(4)) + struct.pack(">I4sQ", 1, b"moov", 2**63 - 1) + bytes(200)


def mkv_of_nested_elements() -> bytes:
    """A Matroska whose tags lie in each other, without known ends, a hundred thousand deep."""
    head = seeds()["mkv"].content
    at = head.index(b"\x16\x54\xae\x6b")
    tag = b"\x12\x54\xc3\x67\x01\xff\xff\xff\xff\xff\xff\xff" + b"\x67\xc8\x01\xff\xff\xff\xff\xff\xff\xff" * 20_000
    return head[:at] + tag


def mkv_of_laced_frames() -> bytes:
    """A Matroska whose one block, laced, claims 256 frames of nothing."""
    content = seeds()["mkv"].content
    at = content.index(b"\x1f\x43\xb6\x75")
    block = b"\x81\x00\x00\x82\xff" + bytes(16)
    cluster = b"\xe7\x81\x00" + (b"\xa3" + bytes([0x80 | len(block)]) + block) * 5_000
    return content[:at] + b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff" + cluster


def avi_of_nested_lists() -> bytes:
    """Ten thousand lists, each in the one before."""
    lists = b"".join(b"LIST" + struct.pack("<I", 12 * (10_000 - depth)) + b"hdrl" for depth in range(10_000))
    return b"RIFF" + struct.pack("<I", len(lists) + 4) + b"AVI " + lists


def aiff_of_marks() -> bytes:
    """Sixty thousand markers that are not there, and a comment of 2 GiB."""
    content = seeds()["aiff"].content
    marks = b"MARK" + struct.pack(">IH", 2**31 - 1, 0xFFFF)
    return content[:12] + content[12:38] + b"COMT" + struct.pack(">IH", 8, 0xFFFF) + bytes(6) + marks + content[38:]


def caf_of_packets() -> bytes:
    """A CAF whose packet table claims 2**63 - 1 packets."""
    content = seeds()["caf-alac"].content
    at = content.index(b"pakt") + 12
    return content[:at] + struct.pack(">qq", 2**63 - 1, 2**63 - 1) + content[at + 16 :]


def wav_of_cues() -> bytes:
    """A WAV whose cue chunk claims 2**32 - 1 points, and whose list claims a text of 4 GiB."""
    content = seeds()["wav"].content
    extra = b"cue " + struct.pack("<II", LARGEST, LARGEST) + bytes(48)
    return content[:36] + extra + content[36:]


def tta_of_frames() -> bytes:
    """A TTA whose header claims 2**32 - 1 samples, and so a seek table of gigabytes."""
    content = seeds()["tta"].content
    return content[:14] + struct.pack("<I", LARGEST) + content[18:]


def ape_of_frames() -> bytes:
    """A Monkey's Audio whose header claims 2**32 - 1 frames, and a seek table of 4 GiB."""
    head = struct.pack("<4sHHIIIIIII", b"MAC ", 3990, 0, 52, 24, LARGEST, 0, 1000, 0, 0) + bytes(16)
    return head + struct.pack("<HHIIIHHI", 2000, 0, 73_728, 1, LARGEST, 16, 2, 44_100) + bytes(2_000)


_BOMBS: tuple[Callable[[], bytes], ...] = (
    *(flac_of_hours, flac_that_claims_more, flac_with_a_gigantic_picture, flac_with_a_million_tags),
    *(opus_of_hours, ogg_of_tiny_pages, ogg_of_many_streams, ogg_with_gigantic_tags),
    *(mp3_behind_a_gigantic_id3, mp3_with_a_gigantic_picture, mp3_of_many_tags, wavex_of_channels),
    *(mp4_of_many_equal_samples, mp4_of_long_samples, mp4_of_nested_boxes),
    *(mp4_with_a_gigantic_box, mkv_of_nested_elements, mkv_of_laced_frames, avi_of_nested_lists),
    *(aiff_of_marks, caf_of_packets, wav_of_cues, tta_of_frames, ape_of_frames),
)


def bombs() -> list[Mutant]:
    """Return all bombs."""
    return [Mutant(make.__name__, make()) for make in _BOMBS]
