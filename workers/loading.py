"""Fetching recordings ahead of the decoder: many requests in flight, bounded in number and in bytes."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from workers.container import HEAD_BYTES, by_frames, sniff
from workers.objects import Fetched, ObjectError, fetch
from workers.recording import Recording, wrong_hint
from workers.shards import read_neighbours, read_piece, too_big
from workers.source import local_path
from workers.stores import ReadingStopped

FETCHES_IN_FLIGHT: Final = 16
BYTES_IN_FLIGHT: Final = 64 << 20
NEIGHBOURS_BYTES: Final = 4 << 20  # of a tar, read with one request
NEIGHBOURS_GAP: Final = 64 << 10  # between two members that are still read together: less than a request costs

Loaded = tuple[Recording, Fetched | ObjectError]


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What reading depends on: storage options, the largest object allowed, and the audio column of Parquet."""

    options: tuple[tuple[str, Any], ...]
    max_bytes: int
    audio_column: str | None = None


def load_ahead(recordings: Iterable[Recording], settings: SourceSettings) -> Generator[Loaded]:
    """Yield each recording with its bytes, or with why it has none; about in the order given.

    Local files are read when their turn comes; members of a .tar are fetched with their neighbours; a piece of a shard
    that can only be read from its beginning is read once, as a stream.
    """
    with closing(_loaded(recordings, settings)) as loaded:
        for recording, outcome in loaded:
            yield recording, _unless_hopeless(recording, outcome)


def _unless_hopeless(recording: Recording, outcome: Fetched | ObjectError) -> Fetched | ObjectError:
    """Return a failure instead of bytes without a header, where what the manifest says of them makes no sense."""
    wrong = wrong_hint(recording)
    if wrong is None or isinstance(outcome, ObjectError) or not outcome.size_bytes:
        return outcome
    try:
        head = _head(outcome)
    except OSError:  # it is gone meanwhile, which the decoder says better
        return outcome
    if sniff(head) or by_frames(head):
        return outcome
    outcome.release()
    return ObjectError("not_audio", f"{recording.source.uri} has no header that we know, and {wrong}")


def _head(fetched: Fetched) -> bytes:
    if fetched.path is None:
        return fetched.content[:HEAD_BYTES]
    with open(fetched.path, "rb") as file:
        return file.read(HEAD_BYTES)


def _loaded(recordings: Iterable[Recording], settings: SourceSettings) -> Generator[Loaded]:
    ahead: deque[tuple[list[Recording], Future[list[Fetched | ObjectError]]]] = deque()
    bytes_ahead = 0
    with ThreadPoolExecutor(FETCHES_IN_FLIGHT, thread_name_prefix="fetch") as fetchers:
        for batch in read_together(recordings):
            if any(map(_is_streamed, batch)):
                yield from zip(batch, _streamed(batch, settings), strict=True)
                continue
            if batch[0].problem or local_path(batch[0].source.object_uri) is not None:
                yield from zip(batch, _load(batch, settings), strict=True)
                continue
            ahead.append((batch, fetchers.submit(_load, batch, settings)))
            bytes_ahead += _size(batch)
            while len(ahead) > FETCHES_IN_FLIGHT or (bytes_ahead > BYTES_IN_FLIGHT and len(ahead) > 1):
                oldest, future = ahead.popleft()
                bytes_ahead -= _size(oldest)
                yield from zip(oldest, future.result(), strict=True)
        for batch, future in ahead:
            yield from zip(batch, future.result(), strict=True)


def read_together(recordings: Iterable[Recording]) -> Iterator[list[Recording]]:
    """Gather consecutive recordings that one request or one stream gives."""
    batch: list[Recording] = []
    for recording in recordings:
        if batch and not _belongs(batch, recording):
            yield batch
            batch = []
        batch.append(recording)
    if batch:
        yield batch


def _belongs(batch: Sequence[Recording], recording: Recording) -> bool:
    first, last, place = batch[0].source.place, batch[-1].source, recording.source.place
    if place is None or first is None or last.place is None:
        return False
    if (place.shard, place.piece) != (first.shard, first.piece):
        return False
    if place.piece is not None:
        return True
    if recording.problem or batch[-1].problem:
        return False
    gap = place.offset - last.place.offset - last.size_bytes
    return 0 <= gap <= NEIGHBOURS_GAP and place.offset + recording.source.size_bytes - first.offset <= NEIGHBOURS_BYTES


def _is_streamed(recording: Recording) -> bool:
    place = recording.source.place
    return place is not None and place.piece is not None and recording.problem is None


def _size(batch: Sequence[Recording]) -> int:
    return sum(recording.source.size_bytes for recording in batch)


def _streamed(batch: Sequence[Recording], settings: SourceSettings) -> Iterator[Fetched | ObjectError]:
    sources = [recording.source for recording in batch if not recording.problem]
    read = read_piece(sources, dict(settings.options), settings.audio_column, settings.max_bytes)
    for recording in batch:
        yield ObjectError(*recording.problem) if recording.problem else next(read)


def _load(batch: Sequence[Recording], settings: SourceSettings) -> list[Fetched | ObjectError]:
    if any(recording.problem or recording.source.size_bytes > settings.max_bytes for recording in batch):
        return [_load_one(recording, settings) for recording in batch]
    if len(batch) > 1:
        return read_neighbours([recording.source for recording in batch], dict(settings.options))
    return [_load_one(batch[0], settings)]


def _load_one(recording: Recording, settings: SourceSettings) -> Fetched | ObjectError:
    source = recording.source
    if recording.problem:
        return ObjectError(*recording.problem)
    if source.size_bytes > settings.max_bytes:
        return too_big(source.uri, source.size_bytes, settings.max_bytes)
    try:
        return fetch(source, dict(settings.options))
    except ObjectError as error:
        return error
    except ReadingStopped:  # it would meet all others too
        raise
    except Exception as error:  # a uri that no store can even be asked for
        return ObjectError("fetch_failed", f"{source.uri} cannot be read: {type(error).__name__}: {error}")
