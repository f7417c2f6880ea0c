"""What the text header of a NIST SPHERE file says, as the LDC publishes them; libsndfile does not heed all of it."""

import re
from typing import BinaryIO, Final

HEADER_BYTES: Final = 1024  # the least, and what everybody writes

_SAMPLE_COUNT: Final = re.compile(rb"^sample_count -i (\d{1,15})\b", re.MULTILINE)
_COMPRESSION: Final = re.compile(rb"^sample_coding -s\d+ \S*?embedded-([a-z]+)", re.MULTILINE)


def sphere_samples(file: BinaryIO) -> int | None:
    """Return how many samples each channel has by the header; None where it does not say."""
    found = _SAMPLE_COUNT.search(_header(file))
    return (int(found[1]) or None) if found else None


def sphere_compression(file: BinaryIO) -> str | None:
    """Return the name of the program that compressed the samples, None where they are plain."""
    found = _COMPRESSION.search(_header(file))
    return found[1].decode() if found else None


def _header(file: BinaryIO) -> bytes:
    file.seek(0)
    header = file.read(HEADER_BYTES).partition(b"\nend_head")[0]
    file.seek(0)
    return header
