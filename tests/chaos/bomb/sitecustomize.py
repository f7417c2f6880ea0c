"""Bombs in every process of a chaos test. Python imports this by itself, since its folder leads PYTHONPATH.

Nothing in the production code knows of it: once a module with a listed act is imported, its methods are wrapped. Of
all processes the one that does the n-th matching act sets the bomb off, once. Imports the standard library only.
"""

import fnmatch
import json
import os
import signal
import stat
import sys
import time
from functools import wraps

BACKENDS = ("pipelines.backends", ("Disk", "S3"))
ACTS = {
    **{act: (*BACKENDS, act) for act in ("read", "open", "list", "write", "write_file", "copy", "delete")},
    "model": ("workers.actors", ("PoolMember",), "__call__"),
    "decode": ("workers.child_process", ("ChildProcess",), "read_frame"),
}
"""Act -> module, classes, method. The first argument is the path of an act of a backend, but of `copy` the second."""

lingering = False
"""Whether this process is the twin of a dead worker."""


class Fuse:
    """Finds modules as the other finders do, and wraps those that hold a listed act after they are executed."""

    def find_spec(self, name, path=None, target=None):
        if not any(name == module for module, _, _ in ACTS.values()):
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), place_bombs(module))
        return spec


def place_bombs(module):
    """Wrap the methods of a module that bombs wait for."""
    folder = bombs_folder()
    with open(f"{folder}/bombs.json") as file:
        bombs = list(enumerate(json.load(file)))
    for act, (name, classes, method) in ACTS.items():
        waiting = [(number, bomb) for number, bomb in bombs if bomb["act"] == act]
        if name == module.__name__ and waiting:
            for owner in (getattr(module, one) for one in classes):
                setattr(owner, method, wrapped(getattr(owner, method), act, folder, waiting))


def bombs_folder():
    """Return the folder of the command; a worker of a cluster that outlives commands looks up the current one."""
    given = os.environ.get("PHONOLAKE_BOMBS")
    if given:
        return given
    with open(f"{os.environ['PHONOLAKE_CHAOS']}/current") as file:
        return file.read()


def wrapped(method, act, folder, bombs):
    @wraps(method)
    def with_bombs(self, *arguments, **options):
        path = arguments[1 if act == "copy" else 0] if act not in ("model", "decode") else ""

        def pass_by(when):
            for number, bomb in bombs:
                if bomb["when"] == when and fnmatch.fnmatchcase(path, bomb["path"]) and is_nth(folder, number, bomb):
                    if when == "amid":
                        delete_half(self, path)
                    go_off(folder, number, bomb["victim"], self)

        pass_by("before")
        pass_by("amid")
        try:
            result = method(self, *arguments, **options)
        finally:
            if lingering:
                os._exit(0)  # the late act was all that was left to do
        pass_by("after")
        return result

    return with_bombs


def is_nth(folder, number, bomb):
    """Count a match over all processes; whether it is the one."""
    count = 1
    while not create(f"{folder}/{number}.{count}"):
        count += 1
    return count == bomb["nth"]


def create(path, text=""):
    """Write a file unless there is one."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(descriptor, text.encode())
    os.close(descriptor)
    return True


def delete_half(backend, folder):
    """Do half of a deletion."""
    found = sorted(backend.list(folder))
    for path in found[: len(found) // 2]:
        if hasattr(backend.full(path), "unlink"):
            backend.full(path).unlink()
        else:
            backend.filesystem.rm_file(backend.full(path))


def go_off(folder, number, victim, owner):
    """Kill whom the bomb is meant for.

    `sleep` stops this process until it gets SIGCONT. `linger` kills it, and leaves a twin that does the act when it is
    woken: Ray ends the workers of a dead driver within seconds, and does not know the twin.
    """
    victims = victim.split("+")
    if "linger" in victims and os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    create(f"{folder}/{number}.off", str(os.getpid()))
    with open(f"{folder}/driver") as file:
        driver = int(file.read())
    for one in victims:
        if one == "driver":
            os.kill(driver, signal.SIGKILL)
        elif one == "group":
            os.killpg(driver, signal.SIGKILL)
        elif one == "raylet":
            os.kill(os.getppid(), signal.SIGKILL)
        elif one == "child":
            os.kill(owner.pid, signal.SIGKILL)
        elif one == "linger":
            await_waking(f"{folder}/{number}.wake")
        else:
            os.kill(os.getpid(), {"self": signal.SIGKILL, "sleep": signal.SIGSTOP}[one])


def await_waking(path):
    """Cut what binds a twin to Ray, and wait."""
    global lingering
    lingering = True
    os.setsid()
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.close(descriptor)
        except OSError:  # the one that listed them
            continue
    while not os.path.exists(path):
        time.sleep(0.05)


if "PHONOLAKE_CHAOS" in os.environ:
    sys.meta_path.insert(0, Fuse())
