"""Reading with libsndfile: WAV, W64, AIFF, AU, CAF, NIST SPHERE, FLAC and MP3, at the speed of its own codecs."""

import io
import re
from typing import BinaryIO, Final, Literal

import numpy as np
import soundfile

from workers import container
from workers.container import Container
from workers.decode_settings import DecodeLimits
from workers.decoded import BLOCK_FRAMES, AudioInfo, Blocks, Damage, DecodeError, check_header
from workers.sphere import sphere_compression, sphere_samples

MOST_CHUNKS: Final = 64  # of a WAV; a sane file has some
UNKNOWN_LENGTH_BYTES: Final = 0x7FFF_0000  # who writes to a pipe leaves a length near 2 or 4 GiB in the header

_RIFF_BYTES: Final = 12
_CHUNK_HEAD_BYTES: Final = 8
_CODECS: Final = {"mpeg_layer_i": "mp1", "mpeg_layer_ii": "mp2", "mpeg_layer_iii": "mp3"}
"""libsndfile's names for what FFmpeg, which reads the same files where it must, calls otherwise."""

_CUT_SHORT: Final = re.compile(r"^ *(?:data|SSND|Data Size|Riff size|riff) *: (\d+) \(should be (\d+)\)$", re.MULTILINE)


class NoSamples(Exception):
    """The header counts no samples; where a recorder was switched off they may follow all the same."""


def open_sound(file: BinaryIO, kind: Container, limits: DecodeLimits) -> tuple[AudioInfo, Blocks]:
    """Open `file` and return its facts and its samples.

    Raises:
        soundfile.LibsndfileError: libsndfile does not open it.
        NoSamples: its header says that it has none.
        DecodeError: it has no samples indeed, or nobody reads them, or a limit is passed by what the header says.
    """
    sphere = _plain_sphere(file) if kind is container.NIST else None
    sound = soundfile.SoundFile(file)
    frames = sphere or _declared_frames(sound)
    info = AudioInfo(
        container=kind.name,
        codec=_CODECS.get(sound.subtype.lower(), sound.subtype.lower()),
        sample_rate=sound.samplerate,
        channels=sound.channels,
        declared_seconds=frames / sound.samplerate if frames else None,
        decoder=f"libsndfile {soundfile.__libsndfile_version__}",
        counts_samples=kind is not container.MP3,
    )
    check_header(info, limits)  # before the first block is allocated: it is as wide as the header says
    if sound.frames == 0:
        if kind is container.WAV and _holds_only_chunks(file):
            raise DecodeError("empty", "the wav has no samples: its data chunk is empty, and others follow it")
        raise NoSamples("it has no samples by its header")
    # soundfile seeks after every read, to where it is; in a damaged FLAC that fails after a read that was good.
    sound._info.seekable = 0
    return info, _blocks(sound)


def _plain_sphere(file: BinaryIO) -> int | None:
    """Return how many samples a NIST SPHERE declares, which may be None; raise DecodeError where it is compressed."""
    if compression := sphere_compression(file):
        raise DecodeError(
            "unreadable", f"the samples of the nist are compressed with {compression}: unpack it, as with sph2pipe -p"
        )
    return sphere_samples(file)


def _holds_only_chunks(file: BinaryIO) -> bool:
    """Whether a WAV's data chunk says that it is empty, and is: what follows are chunks, to the end of the file."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    order: Literal["big", "little"] = "big" if file.read(_RIFF_BYTES)[:4] == b"RIFX" else "little"
    position = _RIFF_BYTES
    names: list[bytes] = []
    while position < end and len(names) < MOST_CHUNKS:
        file.seek(position)
        head = file.read(_CHUNK_HEAD_BYTES)
        if len(head) < _CHUNK_HEAD_BYTES or not all(0x20 <= byte < 0x7F for byte in head[:4]):
            return False
        size = int.from_bytes(head[4:], order)
        if head[:4] == b"data" and size:
            return False
        names.append(head[:4])
        position += _CHUNK_HEAD_BYTES + size + size % 2
    return b"data" in names and names[-1] != b"data" and end <= position <= end + 1


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


def _blocks(sound: soundfile.SoundFile) -> Blocks:
    position = 0
    while position < sound.frames:  # not further: libsndfile would read on, and keep nothing of it
        room = np.empty((min(BLOCK_FRAMES, sound.frames - position), sound.channels), np.float32)
        try:
            block = sound.read(out=room)
        except soundfile.LibsndfileError as error:
            kept = sound.tell() - position  # of this block, too, what came before the damage is good
            if kept > 0:
                yield list(room[:kept].T)
            raise Damage(str(error)) from None
        if len(block):
            position += len(block)
            yield list(block.T)
        if len(block) < len(room):
            return
