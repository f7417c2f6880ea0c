"""Reading with libsndfile: WAV, W64, AIFF, AU, CAF, FLAC, MP3, Ogg Vorbis, at the speed of its own codecs."""

import re
from typing import BinaryIO, Final

import numpy as np
import soundfile

from workers import container
from workers.container import Container
from workers.decode_settings import DecodeLimits
from workers.decoded import BLOCK_FRAMES, AudioInfo, Damage, FloatBlocks, check_header

UNKNOWN_LENGTH_BYTES: Final = 0x7FFF_0000  # who writes to a pipe leaves a length near 2 or 4 GiB in the header

_CUT_SHORT: Final = re.compile(r"^ *(?:data|SSND) : (\d+) \(should be (\d+)\)$", re.MULTILINE)


def open_sound(file: BinaryIO, kind: Container, limits: DecodeLimits) -> tuple[AudioInfo, FloatBlocks]:
    """Open `file` and return its facts and its samples.

    Raises:
        soundfile.LibsndfileError: libsndfile does not open it.
        DecodeError: a limit is passed by what the header says.
    """
    guessed = kind is container.MP3 and not _mp3_declares_length(file)
    sound = soundfile.SoundFile(file)
    frames = None if guessed else _declared_frames(sound)
    info = AudioInfo(
        container=kind.name,
        codec=sound.subtype.lower(),
        sample_rate=sound.samplerate,
        channels=sound.channels,
        declared_seconds=frames / sound.samplerate if frames else None,
        decoder=f"libsndfile {soundfile.__libsndfile_version__}",
    )
    check_header(info, limits)  # before the first block is allocated: it is as wide as the header says
    return info, _blocks(sound)


def _mp3_declares_length(file: BinaryIO) -> bool:
    """Whether an MP3 starts with a Xing, Info or VBRI frame; without one libsndfile guesses from the first bit rate."""
    start = container.id3_bytes(file.read(container.HEAD_BYTES))
    file.seek(start)
    head = file.read(container.HEAD_BYTES)
    file.seek(0)
    return any(tag in head for tag in (b"Xing", b"Info", b"VBRI"))


def _declared_frames(sound: soundfile.SoundFile) -> int | None:
    """Return how many frames the header claims, None where it claims none.

    Where the object is shorter than its header says, libsndfile's `frames` is what is there; its log has both sizes.
    """
    if not 0 < sound.frames < 1 << 62:  # libsndfile says 2**63-1 for "unknown"
        return None
    cut = _CUT_SHORT.search(sound.extra_info)
    if cut is None:
        return int(sound.frames)
    claimed, found = int(cut[1]), int(cut[2])
    return sound.frames * claimed // found if found and claimed < UNKNOWN_LENGTH_BYTES else None


def _blocks(sound: soundfile.SoundFile) -> FloatBlocks:
    position = 0
    while True:
        room = np.empty((BLOCK_FRAMES, sound.channels), np.float32)
        try:
            block = sound.read(out=room)
        except soundfile.LibsndfileError as error:
            kept = sound.tell() - position  # of this block, too, what came before the damage is good
            if kept > 0:
                yield room[:kept]
            raise Damage(str(error)) from None
        if len(block):
            position += len(block)
            yield block
        if len(block) < BLOCK_FRAMES:
            return
