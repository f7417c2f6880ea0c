"""What a manifest names, looked up: a HEAD for each object, and whom a refusal concerns."""

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import fsspec
import obstore
import pyarrow as pa
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError

from pipelines.errors import StoreError
from pipelines.fsspec_listing import UnknownLength, facts_of, patient_info
from pipelines.listing import BATCH_ROWS, LISTING, listed, local_row
from pipelines.manifest import read_manifest
from pipelines.recipe_sections import SourceSection
from pipelines.refusals import store_error
from schemas.records import PROBLEM
from workers.objects import CREDENTIAL_CODES
from workers.source import local_path
from workers.stores import Options, fsspec_options, is_s3, is_web, obstore_takes, s3_store, split_s3

HEADS_IN_FLIGHT: Final = 32
UNNAMEABLE: Final = frozenset({errno.ENAMETOOLONG, errno.ELOOP})
REFUSED: Final = "fetch_failed"  # the code of what a store refuses, or a web server does not answer
REFUSING_STATUS: Final = re.compile(r"status code: (4(?!08|29)\d\d[\w ]*)")
"""What a store answers that refuses, and not for being busy."""

_Facts = tuple[str | None, int, int | None]  # etag, size, time
_Problem = dict[str, str]

UNKNOWN: Final[_Facts] = (None, 0, None)
"""Of what is planned all the same, and fails when it is read, or as its problem says."""


def list_manifest(source: SourceSection, options: Options) -> pa.Table:
    """Return what a manifest names, schema LISTING: each object is asked for its version.

    Raises:
        RecipeError: the manifest makes no sense.
        StoreError: a store does not answer, or nothing can be read.
    """
    entries = read_manifest(source.manifest or "", options, source.allow)
    answers = _Answers(source.manifest or "", options)
    with ThreadPoolExecutor(HEADS_IN_FLIGHT) as askers:
        found = []
        for batch in entries.to_batches(max_chunksize=BATCH_ROWS):
            uris, problems = batch["uri"].to_pylist(), batch["problem"].to_pylist()
            asked = zip(uris, problems, strict=True)
            answered = list(askers.map(lambda one: (UNKNOWN, one[1]) if one[1] else _look_up(one[0], options), asked))
            answers.note(uris, problems, [problem for _, problem in answered])
            etags, sizes, times = zip(*(facts for facts, _ in answered), strict=True)
            told = pa.array([problem for _, problem in answered], PROBLEM)
            found.append(listed(batch["uri"], pa.array(etags, pa.string()), sizes, times, batch["metadata"], told))
    answers.raise_if_all_refused()
    return pa.Table.from_batches(found, LISTING)


@dataclass(slots=True)
class _Answers:
    """Whether the stores of a manifest refuse single objects, which fail each for itself, or all, which ends the plan.

    A HEAD does not say why it is refused; so the first refused object of each bucket is asked for its first byte.
    """

    manifest: str
    options: Options
    asked: int = 0
    refused: int = 0
    first: str = ""
    why: str = ""
    buckets: set[str] = field(default_factory=set)

    def note(self, uris: list[str], before: list[_Problem | None], after: list[_Problem | None]) -> None:
        """Count a batch; StoreError where the store takes the credentials for no object."""
        self.asked += before.count(None)
        for uri, early, late in zip(uris, before, after, strict=True):
            if early is None and late is not None and late["code"] == REFUSED:
                self.refused += 1
                self.first, self.why = self.first or uri, self.why or late["message"]
                if is_s3(uri) and (bucket := split_s3(uri)[0]) not in self.buckets:
                    self.buckets.add(bucket)
                    _raise_if_credentials_are_refused(uri, self.options)

    def raise_if_all_refused(self) -> None:
        """StoreError where no store gave anything that it was asked for."""
        if self.refused and self.refused == self.asked:
            keys = "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, that may read them"
            raise StoreError(
                f"none of the {self.refused} objects that {self.manifest} names can be read. {self.why}"
                f"{keys if is_s3(self.first) else ''}"
            )


def _raise_if_credentials_are_refused(uri: str, options: Options) -> None:
    bucket, key = split_s3(uri)
    try:
        obstore.get_range(s3_store(bucket, tuple(sorted(options.items()))), key, start=0, length=1)
    except (BaseError, ValueError, OSError) as error:
        if any(code in str(error) for code in CREDENTIAL_CODES):
            raise store_error(f"s3://{bucket}", error) from None


def _look_up(uri: str, options: Options) -> tuple[_Facts, _Problem | None]:
    """Return etag, size and time of one object, and why it cannot be read where that is known already.

    One that is not there is planned all the same, and fails as missing.

    Raises:
        StoreError: its store does not answer; a made-up version would be another recording.
    """
    try:
        return _facts(uri, options), None
    except (FileNotFoundError, NotADirectoryError, ValueError, ImportError, InvalidPathError):
        return UNKNOWN, None  # missing, or a uri that no store can be asked for: the run says which, as a failure
    except Exception as error:
        if (problem := _own_problem(uri, error)) is not None:
            return UNKNOWN, problem
        raise store_error(uri, error) from None


def _facts(uri: str, options: Options) -> _Facts:
    path = local_path(uri)
    if path is not None:
        return local_row(path)[1:]
    bucket, key = split_s3(uri) if is_s3(uri) else ("", "")
    if is_s3(uri) and (not bucket or not key or key.endswith("/")):
        raise FileNotFoundError(uri)  # a folder, that is; obstore and s3fs would ask for the object of that name
    if key and obstore_takes(key):
        head = obstore.head(s3_store(bucket, tuple(sorted(options.items()))), key)
        return (head["e_tag"] or "").strip('"') or None, head["size"], int(head["last_modified"].timestamp() * 1e9)
    filesystem, path = fsspec.core.url_to_fs(uri, **fsspec_options(uri, options))
    info = patient_info(filesystem, path)
    if key and info.get("type") == "directory":
        raise FileNotFoundError(uri)
    return facts_of(info)


def _own_problem(uri: str, error: Exception) -> _Problem | None:
    """Return what an error says of one object alone; None where it says something of its store, or nothing."""
    if isinstance(error, OSError) and error.errno in UNNAMEABLE:
        return {"code": "source_missing", "message": f"{uri} names no file: {os.strerror(error.errno or 0)}"}
    if isinstance(error, UnknownLength):
        message = f"{uri} is not read: its store does not say how long it is; copy it to one that does"
        return {"code": "source_refused", "message": message}
    status = REFUSING_STATUS.search(str(error))
    if isinstance(error, PermissionError) and local_path(uri) is not None:
        return {"code": REFUSED, "message": f"{uri} may not be looked at: {os.strerror(error.errno or 0)}"}
    if isinstance(error, PermissionError | PermissionDeniedError | UnauthenticatedError) or status:
        missing = "S3 says so of a missing object too where the credentials may not list the bucket; "
        said = f" ({status.group(1)})" if status else ""
        message = (
            f"{uri} is refused by the store{said}. {missing if is_s3(uri) else ''}check its name, and who may read it"
        )
        return {"code": REFUSED, "message": message}
    if is_web(uri):  # which are many servers, and one that is gone must not end every night
        gist = " ".join(str(error).split())[:300] or type(error).__name__
        return {"code": REFUSED, "message": f"{uri} was not delivered: {gist}; the next run asks again"}
    return None
