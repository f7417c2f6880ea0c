"""Proof that something was not touched: a folder that the kernel watches, and a server that waits for a caller."""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ACCESS, _OPEN = 0x001, 0x020
_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")


class Watch:
    """Which files of a folder anyone has opened or read since it was asked last (inotify(7))."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0 or _libc.inotify_add_watch(self._descriptor, bytes(folder), _ACCESS | _OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify does not watch", str(folder))

    def touched(self) -> set[str]:
        """Return the names of files opened or read."""
        names = set()
        try:
            events = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return names
        at = 0
        while at < len(events):
            _, _, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size + length
            names.add(events[at - length : at].rstrip(b"\0").decode())
        return names

    def close(self) -> None:
        """Watch no more."""
        os.close(self._descriptor)


class Server:
    """A port on localhost; who connects is kept waiting and remembered."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)

    @property
    def address(self) -> str:
        """Its address, as a url of something that sounds like audio."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/canary.wav"

    def was_called(self) -> bool:
        """Whether anyone has connected since it was asked last; whoever did is sent away."""
        called = False
        while True:
            try:
                caller, _ = self._socket.accept()
            except BlockingIOError:
                return called
            caller.close()
            called = True

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@contextmanager
def watched(folder: Path) -> Iterator[Watch]:
    """Watch a folder."""
    watch = Watch(folder)
    try:
        yield watch
    finally:
        watch.close()


@contextmanager
def serving() -> Iterator[Server]:
    """Wait for callers on localhost."""
    server = Server()
    try:
        yield server
    finally:
        server.close()
