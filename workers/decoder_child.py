"""The decoder child: reads requests from standard input, answers on standard output, and may die of what it reads.

It is started by workers.decoder with `python -m workers.decoder_child`, imports no torch and no Ray, holds no
credentials, and ends when its input ends or its parent is gone.
"""

import json
import mmap
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np

from workers import frames
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import AudioInfo, DecodeError
from workers.headerless import RawAudio

ADDRESS_SPACE_BYTES: Final = 1 << 30  # three times what decoding an honest file takes that fits into memory
MOST_ADDRESS_SPACE_BYTES: Final = 2 << 30  # with a long one: FFmpeg holds 32 bytes for every packet of a film
OPEN_FILES: Final = 64
PARENT_CHECK_SECONDS: Final = 5.0
BUFFER_BYTES: Final = 1 << 20
TOLD_BYTES: Final = 64 << 10  # of samples: the parent copies them at once, into memory that it has at hand


class _Sink:
    """Gives what the decoder finds to the parent; samples that lie one behind the other are told of together."""

    def __init__(self, out: BinaryIO, room: frames.Room) -> None:
        self._out, self._room, self._unflushed = out, room, 0

    def opened(self, info: AudioInfo) -> None:
        self._out.write(frames.pack(frames.OPENED, frames.fields_of(info)))

    def samples(self, pcm: np.ndarray) -> None:
        channels = 1 if pcm.ndim == 1 else pcm.shape[1]
        if self._room.put(pcm.data, channels):
            if self._room.untold_bytes >= TOLD_BYTES:
                self.tell()
            return
        self.tell()
        header = {} if pcm.ndim == 1 else {"channels": channels}
        self._out.write(frames.pack(frames.SAMPLES, header, pcm.nbytes))
        self._out.write(pcm.data)

    def tell(self) -> None:
        """Tell of the samples in the memory that were not told of."""
        self._unflushed += self._room.untold_bytes
        self._out.write(self._room.told())
        if self._unflushed >= BUFFER_BYTES:  # as often as samples in the pipe would fill its buffer
            self._out.flush()
            self._unflushed = 0


def read_settings(text: str) -> DecodeSettings:
    """Return the settings that the parent gives on the command line, as JSON."""
    told = json.loads(text)
    return DecodeSettings(**{**told, "limits": DecodeLimits(**told["limits"])})


def answer(request: frames.Request, settings: DecodeSettings, out: BinaryIO) -> None:
    """Decode one request's object and write the outcome to `out`; whatever it raises becomes a FAILED frame."""
    header = request.header
    raw = RawAudio(**header["raw"]) if "raw" in header else None
    try:
        sink = _Sink(out, request.room)
        with _opened(header["path"]) if "path" in header else request.payload as file:
            ending = decode(file, settings, sink, raw)
        sink.tell()
        out.write(frames.pack(frames.ENDED, frames.fields_of(ending)))
    except DecodeError as error:
        out.write(frames.pack(frames.FAILED, {"code": error.code, "message": error.message}))
    except Exception as error:  # any library's own error on hostile bytes
        out.write(frames.pack(frames.FAILED, {"code": "unreadable", "message": f"{type(error).__name__}: {error}"}))
    out.flush()


def _opened(path: str) -> BinaryIO:
    """Open a file that is too long for memory, and from now on allow what its index may take."""
    file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    wanted = ADDRESS_SPACE_BYTES + os.fstat(file.fileno()).st_size // 2
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (max(before, min(wanted, most)), most))
    return file


def _limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, MOST_ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with(parent: int) -> None:
    """End this process when `parent` is gone, even where a decoder never returns."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)


def requests() -> Iterator[frames.Request]:
    """Yield what the parent asks, on standard input and in the memory whose descriptors are the last arguments."""
    stream = os.fdopen(0, "rb", buffering=BUFFER_BYTES)
    with (
        mmap.mmap(int(sys.argv[-2]), frames.SLOTS * frames.SLOT_BYTES, prot=mmap.PROT_READ) as objects,
        mmap.mmap(int(sys.argv[-1]), frames.SLOTS * frames.ANSWER_BYTES) as answers,
    ):
        while (request := frames.read_request(stream, objects, answers)) is not None:
            yield request


def main() -> None:
    """Answer requests until standard input ends; the last arguments are the parent, the settings, and two memories."""
    _limit_resources()
    os.chdir("/")  # libsndfile looks for resource forks, as `._`, where its process is
    threading.Thread(target=_end_with, args=(int(sys.argv[-4]),), daemon=True).start()
    settings = read_settings(sys.argv[-3])
    answers = os.fdopen(os.dup(1), "wb", buffering=BUFFER_BYTES)
    os.dup2(2, 1)  # whatever a library prints must not get between the frames
    for request in requests():
        answer(request, settings, answers)


if __name__ == "__main__":
    main()
