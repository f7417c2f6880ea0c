"""Globs over uris: what a source names with wildcards, and what its include and exclude choose."""

import re
from collections.abc import Iterable
from typing import Final

import fsspec.utils
import pyarrow as pa
import pyarrow.compute as pc

from workers.source import local_path
from workers.stores import is_s3, is_web

GLOB_CHARACTERS: Final = "*?["


def split_glob(uri: str) -> tuple[str, str | None]:
    """Return what comes before a glob's first wildcard, up to its folder, and the whole pattern; None without one.

    A web address is none: its ? begins a query.
    """
    if is_web(uri):
        return uri, None
    positions = [uri.find(character) for character in GLOB_CHARACTERS if character in uri]
    if not positions:
        return uri, None
    return uri[: uri.rfind("/", 0, min(positions)) + 1], uri


def matches(uris: pa.ChunkedArray, patterns: Iterable[str]) -> pa.ChunkedArray:
    """Return which uris a pattern matches: whole where it has a scheme or begins with /, else at their end."""
    alternatives = [
        ("" if "://" in pattern or pattern.startswith("/") else "(?s:.*[/#])?") + fsspec.utils.glob_translate(pattern)
        for written in patterns
        for pattern in _spellings(written)
    ]
    expression = "|".join(_as_re2(alternative) for alternative in alternatives)
    return pc.match_substring_regex(uris, f"^(?:{expression})$")


def _spellings(pattern: str) -> tuple[str, ...]:
    """Return a pattern as the uris may be written that it is meant for."""
    if is_s3(pattern):
        rest = pattern.partition("://")[2]
        return f"s3://{rest}", f"s3a://{rest}"
    return (pattern, local_path(pattern) or pattern) if pattern.startswith("file://") else (pattern,)


def _as_re2(expression: str) -> str:
    """Turn a Python expression of glob_translate into one of Arrow's RE2, which knows no \\Z."""
    return re.sub(r"\\Z$", "", expression)
