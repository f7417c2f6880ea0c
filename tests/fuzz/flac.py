"""FLAC written by hand (RFC 9639): frames of a constant, a dozen bytes for up to 65535 samples."""

LARGEST_BLOCK = 65_535


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    register, top, mask = 0, 1 << bits - 1, (1 << bits) - 1
    for byte in data:
        register ^= byte << bits - 8
        for _ in range(8):
            register = (register << 1 ^ (polynomial if register & top else 0)) & mask
    return register


def _coded(number: int) -> bytes:
    """Return a frame number as FLAC codes it: UTF-8, up to 31 bits."""
    if number < 0x80:
        return bytes([number])
    tail = []
    while number >= 1 << 6 - len(tail):
        tail.append(0x80 | number & 0x3F)
        number >>= 6
    return bytes([0xFF << 7 - len(tail) & 0xFF | number, *reversed(tail)])


def _rate(rate: int | None) -> tuple[int, bytes]:
    """Return the code of a frame's rate, and what stands behind its number."""
    if rate is None:
        return 0, b""
    return (13, rate.to_bytes(2, "big")) if rate < 1 << 16 else (14, (rate // 10).to_bytes(2, "big"))


def frame(
    number: int, samples: int = LARGEST_BLOCK, channels: int = 1, value: int = 0, rate: int | None = None
) -> bytes:
    """Return a frame of 16-bit constants, at a `rate` of its own or the one that STREAMINFO says."""
    code, told = _rate(rate)
    head = b"\xff\xf8" + bytes([0x70 | code, (channels - 1) << 4 | 0x08])
    head += _coded(number) + (samples - 1).to_bytes(2, "big") + told
    head += bytes([_crc(head, 0x07, 8)])
    body = head + (b"\x00" + value.to_bytes(2, "big", signed=True)) * channels
    return body + _crc(body, 0x8005, 16).to_bytes(2, "big")


def stream_info(rate: int, channels: int, total: int, block: int = LARGEST_BLOCK) -> bytes:
    """Return the 34 bytes of STREAMINFO, without a checksum of the audio."""
    packed = rate << 44 | (channels - 1) << 41 | 15 << 36 | total
    return block.to_bytes(2, "big") * 2 + bytes(6) + packed.to_bytes(8, "big") + bytes(16)


def block(kind: int, body: bytes, *, last: bool = False, size: int | None = None) -> bytes:
    """Return a metadata block; `size` is what it claims to have."""
    return bytes([kind | last << 7]) + (len(body) if size is None else size).to_bytes(3, "big") + body


def silence(frames: int, rate: int = 16_000, channels: int = 1, total: int | None = None) -> bytes:
    """Return a FLAC file of `frames` frames of silence."""
    claimed = frames * LARGEST_BLOCK if total is None else total
    head = b"fLaC" + block(0, stream_info(rate, channels, claimed), last=True)
    return head + b"".join(frame(number, channels=channels) for number in range(frames))


def in_ogg_packets(frames: int, rate: int = 16_000) -> list[bytes]:
    """Return the packets of the same in Ogg: the mapping's header, an empty comment, frames of 4096 samples."""
    info = b"fLaC" + block(0, stream_info(rate, 1, frames * 4096, 4096))
    head = b"\x7fFLAC\x01\x00\x00\x01" + info
    return [head, block(4, bytes(8), last=True), *(frame(number, 4096, value=number) for number in range(frames))]
