"""What the members beside the audio of a tar say of it: WebDataset's sidecars."""

import json
import logging
from collections.abc import Iterator
from typing import Final

logger = logging.getLogger(__name__)

SIDECARS: Final = frozenset({".json", ".txt", ".cls"})
"""Members that say something about the audio of the same name: they become its metadata."""
SIDECAR_BYTES: Final = 1 << 20  # what a sidecar may have to be read


class Notes:
    """What the sidecars of a tar say, and of which members.

    WebDataset takes what shares a path up to the first dot of the name for one sample. Names with dots of their own,
    2024.01.05-rec1.wav, would all be one sample; so a sidecar speaks first of the member whose name it has but for the
    last ending.
    """

    def __init__(self) -> None:
        self._said: dict[str, list[tuple[str, list[tuple[str, str]]]]] = {}  # by key: stem and what is said
        self.too_long: list[str] = []

    def add(self, sidecar: str, said: list[tuple[str, str]]) -> None:
        """Keep what a sidecar says."""
        self._said.setdefault(sample_key(sidecar), []).append((_stem(sidecar), said))

    def of(self, member: str, *, alone: bool) -> dict[str, str]:
        """Return what is said of a member, each name once; `alone` where no other has its key."""
        key, names = sample_key(member), {_stem(member), member}
        sidecars = self._said.get(key, [])
        own = [said for stem, said in sidecars if stem in names]
        if alone:
            shared = [said for _, said in sidecars]
        else:
            shared = [] if own else [said for stem, said in sidecars if stem == key]
        return {name: value for said in (*shared, *own) for name, value in said}

    def warn_of_long_ones(self, shard: str) -> None:
        """Say which sidecars were not read, if any."""
        if self.too_long:
            logger.warning(
                "%s: sidecars of more than %d bytes, which become no metadata: %d, %r first; make them shorter",
                *(shard, SIDECAR_BYTES, len(self.too_long), self.too_long[0]),
            )


def sample_key(name: str) -> str:
    """Return what members of one sample share: the path up to the first dot of the file's name (WebDataset)."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.split('.', 1)[0]}"


def _stem(name: str) -> str:
    """Return a name without its last ending."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.rpartition('.')[0] or file}"


def as_utf8(text: str) -> str:
    """Return text with what is no UTF-8 written out."""
    return text.encode(errors="backslashreplace").decode()


def said_by(suffix: str, content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the names and values that a sidecar's bytes say: those of a JSON object, or its text under its suffix."""
    text = content.decode("utf-8", errors="replace").strip()
    if suffix != ".json":
        yield suffix[1:], text
        return
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = text
    if not isinstance(told, dict):
        told = {"json": told}
    for name, value in told.items():
        if value is not None:
            yield as_utf8(name), as_utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
