"""Ray: joining a cluster, or starting it in this machine."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import ray
import ray._private.services
import ray._private.worker

from pipelines.errors import PhonolakeError
from workers.models.own import CODE_FOLDER

LEAST_STORE_BYTES, MOST_STORE_BYTES = 512 << 20, 8 << 30
STORE_PART: Final = 0.025  # of the memory; Ray's own 0.3 would let each worker seem gigabytes big

PATIENCE_SECONDS: Final = 15.0  # with a head whose port nobody has opened yet
TRIES_TO_JOIN: Final = "RAY_gcs_server_port_wait_time_s"  # of 40 s each; Ray's own 20 of them are a quarter of an hour


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray in this machine.

    Raises:
        PhonolakeError: no cluster answers there; this is known within a minute.
    """
    if ray.is_initialized():
        return
    for name in ("ray", "ray.data"):  # what matters of it is in our own messages; all of it is in Ray's log files
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if address := os.environ.get("RAY_ADDRESS"):
        _join(address)
    else:
        os.environ[CODE_FOLDER] = os.getcwd()
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes on our own actors go to the terminal
        with _no_stderr():  # where it would note that we set that
            ray.init(
                address="local",  # not whichever cluster happens to run on this machine
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=object_store_bytes(),
            )
    _silence()


def _join(address: str) -> None:
    """Join the cluster at an address, in any of the forms that Ray takes: host:port, ray://host:port, auto."""
    os.environ.setdefault(TRIES_TO_JOIN, "1")
    try:
        if "://" not in address:
            _await_port(ray._private.services.canonicalize_bootstrap_address(address))
        with _no_stderr():  # where native code would count its tries
            ray.init(log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        raise PhonolakeError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}; see that its head runs and that this machine "
            f"reaches it (host:6379, ray://host:10001 or auto), or unset RAY_ADDRESS to start Ray in this machine"
        ) from error


def _await_port(address: str | None) -> None:
    """Wait until somebody listens at host:port; OSError where nobody does for PATIENCE_SECONDS."""
    if address is None:
        return
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_SECONDS).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _silence() -> None:
    """Keep what Ray notes of tasks that fail out of standard output, where our own facts go as JSON.

    Such errors reach us as errors. Ray 2.60 offers no setting for it: log_to_driver is about what workers print.
    """
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def object_store_bytes() -> int:
    """Return how much shared memory blocks may fill: pages of it count as resident in every worker they passed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(LEAST_STORE_BYTES, min(MOST_STORE_BYTES, int(memory * STORE_PART)))


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what native code writes to standard error; exceptions still come through."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
