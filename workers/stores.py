"""The stores that objects lie in: how they are reached, with whose credentials, and what they call a version.

Credentials, endpoint and region come from where s3fs takes them, for obstore too.
"""

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final

import fsspec
import obstore

CREDENTIAL_MINUTES: Final = 5
WEB_CONNECT_SECONDS: Final = 20.0
WEB_SILENCE_SECONDS: Final = 120.0  # what aiohttp limits unless told otherwise is a whole download, to five minutes
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIMES: Final = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created")
"""What fsspec file systems call the time of an object; the last of them where they tell no other."""
GONE: Final = frozenset({404, 410})
BUSY: Final = frozenset({408, 429})
ODD_KEY: Final = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f]")

Options = Mapping[str, Any]
"""A storage section of a recipe: endpoint_url, region, anon; never a key or a secret."""


class ReadingStopped(Exception):
    """Nothing more can be read here, credentials refused or disk full: the attempt must stop, and can be resumed."""


def is_s3(uri: str) -> bool:
    """Whether `uri` is in S3 or a store that speaks its protocol."""
    return uri.startswith(("s3://", "s3a://"))


def is_web(uri: str) -> bool:
    """Whether `uri` is an address of a web server, which tells of single files and lists none."""
    return uri.startswith(("http://", "https://"))


def split_s3(uri: str) -> tuple[str, str]:
    """Return bucket and key of an s3:// uri; a key may hold any character, also ? and #."""
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    return bucket, key


def obstore_takes(key: str) -> bool:
    """Whether obstore reads a key as it is written; s3fs reads those with parts "", . or .., and control characters."""
    return not ODD_KEY.search(key)


def etag_of(info: Mapping[str, Any]) -> str | None:
    """Return what an fsspec file system calls an object's version, None where it has none."""
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    return str(etag).strip('"') if etag else None


def time_of(info: Mapping[str, Any]) -> int | None:
    """Return when an fsspec file system says that an object was written, in nanoseconds; None where it does not say.

    Counted in whole microseconds, for some tell one time now as a float and now as a datetime.
    """
    told = next((info[name] for name in TIMES if info.get(name) not in (None, "")), None)
    when = _parsed(told) if isinstance(told, str) else told
    if isinstance(when, datetime):
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        return (aware - EPOCH) // timedelta(microseconds=1) * 1000
    return round(when * 1e6) * 1000 if isinstance(when, int | float) else None


def _parsed(text: str) -> datetime | None:
    """Return a time that is written as in ISO 8601 or as in HTTP."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return parse(text)
        except ValueError:
            continue
    return None


def info_of(filesystem: Any, path: str) -> Mapping[str, Any]:
    """Return what an fsspec file system knows of an object.

    That of web servers says of every trouble that the file is not found; here it is told what it was.

    Raises:
        FileNotFoundError: there is no such object.
        PermissionError: a web server refuses it.
    """
    try:
        info: Mapping[str, Any] = filesystem.info(path)
    except FileNotFoundError as error:
        cause = error.__cause__
        status = getattr(cause, "status", None)
        if not is_web(path) or cause is None or status in GONE:
            raise
        if status is not None and 400 <= status < 500 and status not in BUSY:
            raise PermissionError(f"status code: {status} {getattr(cause, 'message', '')}".rstrip()) from None
        raise cause from None
    return info


def fsspec_options(uri: str, options: Options) -> dict[str, Any]:
    """Return what fsspec wants for a recipe's storage section, of which a web server has none."""
    if is_web(uri):
        import aiohttp  # slow to import, and needed for the web only

        patience = aiohttp.ClientTimeout(total=None, sock_connect=WEB_CONNECT_SECONDS, sock_read=WEB_SILENCE_SECONDS)
        return {"client_kwargs": {"timeout": patience}}
    if not is_s3(uri):
        return dict(options)
    known = {"endpoint_url": options.get("endpoint_url"), "anon": options.get("anon")}
    region = {"client_kwargs": {"region_name": options["region"]}} if "region" in options else {}
    return {**{name: value for name, value in known.items() if value is not None}, **region}


@lru_cache(maxsize=64)
def s3_store(bucket: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """Return obstore's view of a bucket, with the credentials, endpoint and region that s3fs would use.

    Raises:
        ReadingStopped: no credentials are found, and `anon` is not set.
    """
    chosen = dict(options)
    endpoint, region = endpoint_and_region(chosen)
    config: dict[str, Any] = {"region": region or "us-east-1"}
    if endpoint:
        config["endpoint"] = endpoint
    if chosen.get("anon"):
        config["skip_signature"] = True
    return obstore.store.S3Store(
        bucket,
        config=config,
        client_options={"allow_http": True, "timeout": "120s"},
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=120)},
        credential_provider=None if chosen.get("anon") else _botocore_credentials(),
    )


def endpoint_and_region(chosen: Options) -> tuple[str | None, str | None]:
    """Return what the recipe, fsspec's configuration, the environment or the profile say, in this order."""
    import botocore.exceptions  # slow to import, and needed for s3:// only
    import botocore.session

    session = botocore.session.get_session()
    try:
        profile = session.get_scoped_config()
    except botocore.exceptions.ProfileNotFound:
        profile = {}
    environment = os.environ
    endpoint = chosen.get("endpoint_url") or fsspec.config.conf.get("s3", {}).get("endpoint_url")
    endpoint = endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = chosen.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    return endpoint or profile.get("endpoint_url"), region or profile.get("region")


def _botocore_credentials() -> Callable[[], dict[str, Any]]:
    """Return a source of the credentials that botocore, and so s3fs, finds."""
    import botocore.session  # slow to import, and needed for s3:// only

    credentials = botocore.session.get_session().get_credentials()
    if credentials is None:
        raise ReadingStopped(
            "no credentials for s3:// found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; "
            "for a public bucket set storage.anon: true"
        )

    def current() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=CREDENTIAL_MINUTES),
        }

    return current
