"""Where source and lake lie: in stores that can be read here, and neither in the other.

A lake that its source can see would be read as recordings, every night more of them.
"""

import os
import re
from typing import Final

import fsspec
import pyarrow as pa
from fsspec.registry import known_implementations

from pipelines.errors import RecipeError
from pipelines.globs import GLOB_CHARACTERS, matches, split_glob
from pipelines.recipe_sections import LakeSection, SourceSection, Storage
from pipelines.shards import PARQUET_SUFFIXES, TAR_SUFFIXES
from schemas import layout
from workers.source import local_path
from workers.stores import endpoint_and_region, is_s3, split_s3

WILD: Final = re.compile(f"[{re.escape(GLOB_CHARACTERS)}]")
OWN_FILES: Final = (
    layout.data_file("recordings", "corpus", "2024-01-01", "00001", 0),
    layout.plan_file("corpus", "00001"),
    layout.ledger_file("corpus", "00001"),
    f"{layout.TEMPORARY}/phonolake-0/0.parquet",
)
"""Files such as every lake holds; what a source's globs leave out of these, they leave out of the lake."""


def refuse_overlap(source: SourceSection, lake: LakeSection) -> None:
    """Refuse a lake whose own files the source would list, and a source that lies inside the lake.

    Links in local paths are followed. A manifest names its files one by one, and a lake's are none of them.

    Raises:
        RecipeError: one lies in the other; the message says what to write instead.
    """
    if source.manifest is not None or not _same_store(source, lake):
        return
    base, pattern = _base(source)
    inner, outer = _parts(lake.uri), _parts(base)
    if _lies_in(inner, outer):
        seen = "/".join([base.rstrip("/"), *inner[len(outer) :]])
        if any(_is_listed(f"{seen}/{path}", pattern, source) for path in OWN_FILES):
            raise RecipeError(
                f"lake {lake.uri} lies inside the source {source.where}, which would read the lake's own files as "
                f'recordings; put the lake beside it, or leave it out: source.exclude: ["{WILD.sub("?", seen)}/**"]'
            )
    elif _lies_in(outer, inner):
        raise RecipeError(
            f"the source {source.where} lies inside the lake {lake.uri}, which holds nothing but what runs write; put "
            f"one beside the other, such as lake: {{uri: {lake.uri.rstrip('/')}-lake}}"
        )


def refuse_unreachable(source: SourceSection) -> None:
    """Refuse a source in a store that nothing installed here can read.

    Raises:
        RecipeError: the message names the package to install, or the stores there are.
    """
    where = source.where
    if is_s3(where) or local_path(where) is not None:
        return
    scheme = where.partition("://")[0]
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        remedy = _remedy(scheme, error)
        raise RecipeError(f"the source {where} needs a package that is not installed here: {remedy}") from None
    except ValueError:
        raise RecipeError(
            f"the source {where} lies in no store that is known here; s3://, a folder, and what fsspec reads, such as "
            f"gs:// and az:// (docs/sources.md)"
        ) from None


def _remedy(scheme: str, error: ImportError) -> str:
    """Return what to install for a scheme: fsspec names the class, and packages are called as its first part."""
    package = known_implementations.get(scheme, {}).get("class", "fsspec").partition(".")[0]
    return str(error) if package == "fsspec" else f"pip install {package}"


def _same_store(source: SourceSection, lake: LakeSection) -> bool:
    if is_s3(source.where) and is_s3(lake.uri):
        return _endpoint(source.storage) == _endpoint(lake.storage)
    return local_path(source.where) is not None and local_path(lake.uri) is not None


def _endpoint(storage: Storage) -> str:
    """Return where S3 is, whether the recipe says so or the environment; "" is Amazon's."""
    return (endpoint_and_region(storage.options())[0] or "").rstrip("/")


def _base(source: SourceSection) -> tuple[str, str | None]:
    """Return the folder that a source lists, and the glob that chooses from it; None without one."""
    where = local_path(source.where) or source.where
    literal = not is_s3(where) and os.path.exists(where)  # a folder may be called show [2024]
    return (where, None) if literal else split_glob(where)


def _parts(uri: str) -> list[str]:
    """Return a place as the steps that lead to it, links followed."""
    if is_s3(uri):
        bucket, key = split_s3(uri)
        return [bucket, *filter(None, key.split("/"))]
    return [part for part in os.path.realpath(local_path(uri) or uri).split("/") if part]


def _lies_in(inner: list[str], outer: list[str]) -> bool:
    return inner[: len(outer)] == outer


def _is_listed(uri: str, pattern: str | None, source: SourceSection) -> bool:
    """Whether a source takes a file of this name."""
    ends = TAR_SUFFIXES if source.tar else PARQUET_SUFFIXES if source.parquet else ("",)
    chosen = uri.lower().endswith(ends) and (pattern is None or _matched(uri, (pattern,)))
    included = not source.include or _matched(uri, source.include)
    return chosen and included and not _matched(uri, source.exclude)


def _matched(uri: str, patterns: tuple[str, ...]) -> bool:
    return bool(matches(pa.chunked_array([[uri]]), patterns)[0].as_py())
