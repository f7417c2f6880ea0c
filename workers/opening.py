"""Who reads a recording: libsndfile what it can read, FFmpeg the rest, and what libsndfile gives up."""

from typing import BinaryIO, Final

import soundfile

from workers import container
from workers.container import Container
from workers.decode_settings import DecodeSettings
from workers.decoded import AudioInfo, Blocks, Damage, DecodeError, Holes
from workers.ffmpeg import open_media
from workers.headerless import RawAudio
from workers.libsndfile import NoSamples, open_sound
from workers.mp4_boxes import why_unreadable
from workers.other_files import name_other
from workers.rest import holds_more, tells_its_length, without_seams
from workers.tags import ape_bytes, id3_bytes, without_front, without_tail

MOST_TAGS: Final = 4  # one behind the other; a sane file has one
READ_ON_WITHIN: Final = 2 * 3600  # seconds: what came before is decoded again, in silence, and the parent waits
_FRAMED: Final = (container.FLAC, container.MP3)
"""libsndfile reads them, and their frames bear a sync word, so that a decoder finds its way behind a damaged place."""


def open_recording(file: BinaryIO, settings: DecodeSettings, raw: RawAudio | None) -> tuple[AudioInfo, Blocks]:
    """Open `file` with the library that reads it; return its facts and its samples, of all channels at its own rate.

    Formats are told by content; `raw` is what the bytes are if they have no header.

    Raises:
        DecodeError: it is no audio, cannot be opened, or a limit is passed by what its header says.
    """
    head, tag = _head(file)
    if not head and not tag:
        raise DecodeError("empty", "the object has 0 bytes")
    kind = container.by_signature(head)
    if kind is None and raw is not None and not tag:
        return open_media(file, raw.container, settings.limits, settings.track, raw.demuxer_options)
    kind = kind or container.by_sync_word(head) or (container.MP3 if tag else container.by_frames(head))
    if kind is None:
        other = name_other(head)
        raise DecodeError(
            "not_audio",
            f"no known audio or video format starts with the bytes {head[:8]!r}" + (f": {other}" if other else ""),
        )
    file = without_front(file, tag)
    if kind in (container.MP3, container.AAC_ADTS):
        file = without_tail(file)  # FFmpeg would take its pictures for damaged frames
    if kind is container.MP3 and not tells_its_length(file):
        return _open_media(without_seams(file), kind, settings)
    file.seek(0)
    if not kind.soundfile:
        return _open_media(file, kind, settings)
    try:
        info, blocks = open_sound(file, kind, settings.limits)
    except NoSamples as refusal:
        return _second_opinion(file, kind, settings, str(refusal))
    except soundfile.LibsndfileError as refusal:
        return _second_opinion(file, kind, settings, refusal.error_string)
    return info, _read_on(file, kind, settings, info, blocks) if kind in _FRAMED else blocks


def _open_media(file: BinaryIO, kind: Container, settings: DecodeSettings) -> tuple[AudioInfo, Blocks]:
    """Open `file` with FFmpeg; where it reads nothing of an MP4, say why."""
    try:
        return open_media(file, kind, settings.limits, settings.track, {})
    except DecodeError as error:
        why = why_unreadable(file) if kind is container.MP4 and error.code == "unreadable" else None
        if why is None:
            raise
        raise DecodeError(error.code, why) from None


def _head(file: BinaryIO) -> tuple[bytes, int]:
    """Return the first bytes behind any ID3v2 and APEv2 tags, and how long the tags are."""
    tags = 0
    for _ in range(MOST_TAGS):
        file.seek(tags)
        head = file.read(container.HEAD_BYTES)
        more = id3_bytes(head) or ape_bytes(head)
        if not more:
            break
        tags += more
    file.seek(0)
    return head, tags


def _second_opinion(
    file: BinaryIO, kind: Container, settings: DecodeSettings, refusal: str
) -> tuple[AudioInfo, Blocks]:
    """Let FFmpeg try what libsndfile does not open: it knows more codecs, and forgives more."""
    file.seek(0)
    try:
        return open_media(file, kind, settings.limits, settings.track, {})
    except DecodeError as error:
        raise DecodeError(error.code, f"{error.message} (libsndfile: {refusal})") from None


def _read_on(file: BinaryIO, kind: Container, settings: DecodeSettings, info: AudioInfo, blocks: Blocks) -> Blocks:
    """Yield libsndfile's blocks, and FFmpeg's where they break off or end too early.

    FFmpeg goes on behind a damaged place, and behind the end that a header tells of.
    """
    position, broken = 0, None
    try:
        for block in blocks:
            position += len(block[0])
            yield block
    except Damage as damage:
        broken = damage
    if broken is None and not holds_more(file, kind):
        return
    if position > READ_ON_WITHIN * info.sample_rate:
        raise broken or Damage("sound follows that its header does not count")
    found = 0
    for block in _behind(_again(file, kind, settings, info), position):
        found += len(block[0])
        yield block
    if broken is not None:
        raise Holes(f"damaged at {position / info.sample_rate:.2f} s: {broken}") if found else broken


def _again(file: BinaryIO, kind: Container, settings: DecodeSettings, info: AudioInfo) -> Blocks:
    """Return FFmpeg's blocks of what libsndfile began to read; none where it hears something else."""
    file.seek(0)
    try:
        other, blocks = open_media(file, kind, settings.limits, settings.track, {})
    except DecodeError:
        return iter(())
    same = (other.sample_rate, other.channels) == (info.sample_rate, info.channels)
    return blocks if same else iter(())


def _behind(blocks: Blocks, position: int) -> Blocks:
    """Yield what comes behind the first `position` frames."""
    passed = 0
    for block in blocks:
        skipped = min(len(block[0]), position - passed)
        passed += skipped
        if skipped < len(block[0]):
            yield [channel[skipped:] for channel in block]
