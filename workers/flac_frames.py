"""Frames of FLAC (RFC 9639, 9.1), told by their heads and the heads' checksums."""

from typing import Final

_UNCOMMON_BLOCK_BYTES: Final = {6: 1, 7: 2}  # behind the number, by the code of the block size
_UNCOMMON_RATE_BYTES: Final = {12: 1, 13: 2, 14: 2}
_MOST_CHANNEL_CODES: Final = 11
_POLYNOMIAL: Final = 0x07


def starts_flac_frame(data: bytes, at: int) -> bool:
    """Whether the head of a frame stands at `at`, where a sync code is."""
    if len(data) < at + 6:
        return False
    block, rate = data[at + 2] >> 4, data[at + 2] & 15
    channels, bits = data[at + 3] >> 4, data[at + 3] >> 1 & 7
    if block == 0 or rate == 15 or channels >= _MOST_CHANNEL_CODES or bits == 3 or data[at + 3] & 1:
        return False
    end = at + 4 + _number_bytes(data[at + 4]) + _UNCOMMON_BLOCK_BYTES.get(block, 0) + _UNCOMMON_RATE_BYTES.get(rate, 0)
    return end < len(data) and _checksum(data[at:end]) == data[end]


def _number_bytes(first: int) -> int:
    """Return how long a number is that is coded as in UTF-8, by its first byte."""
    ones = 8 - (~first & 0xFF).bit_length()
    return max(1, ones)


def _checksum(head: bytes) -> int:
    found = 0
    for byte in head:
        found ^= byte
        for _ in range(8):
            found = found << 1 & 0xFF ^ (_POLYNOMIAL if found & 0x80 else 0)
    return found
