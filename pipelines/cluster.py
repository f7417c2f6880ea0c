"""Ray: joining a cluster, or starting it in this machine."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import ray
import ray._private.worker

from pipelines.errors import PhonolakeError
from workers.models.own import CODE_FOLDER

LEAST_STORE_BYTES, MOST_STORE_BYTES = 512 << 20, 8 << 30
STORE_PART: Final = 0.025  # of the memory; Ray's own 0.3 would let each worker seem gigabytes big


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray in this machine."""
    if ray.is_initialized():
        return
    for name in ("ray", "ray.data"):  # what matters of it is in our own messages; all of it is in Ray's log files
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise PhonolakeError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error
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
