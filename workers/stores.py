"""The stores that objects lie in: how they are reached, with whose credentials, and what they call a version.

Credentials, endpoint and region come from where s3fs takes them, for obstore too.
"""

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import fsspec
import obstore

CREDENTIAL_MINUTES: Final = 5
ODD_KEY: Final = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f]")

Options = Mapping[str, Any]
"""A storage section of a recipe: endpoint_url, region, anon; never a key or a secret."""


class ReadingStopped(Exception):
    """Nothing more can be read here, credentials refused or disk full: the attempt must stop, and can be resumed."""


def is_s3(uri: str) -> bool:
    """Whether `uri` is in S3 or a store that speaks its protocol."""
    return uri.startswith(("s3://", "s3a://"))


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


def fsspec_options(uri: str, options: Options) -> dict[str, Any]:
    """Return what fsspec wants for a recipe's storage section."""
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
