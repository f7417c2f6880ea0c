"""What the errors of a source's store mean to who wrote the recipe."""

import re
from typing import Final

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from pipelines.errors import RecipeError, StoreError
from workers.objects import CREDENTIAL_CODES
from workers.stores import ReadingStopped

REFUSALS: Final = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken")


def store_error(where: str, error: Exception) -> Exception:
    """Return what a store's error means to who wrote the recipe: whose fault it is, and what to set."""
    text = " ".join(str(error).split())
    gist = _gist(text) or type(error).__name__
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or gist in (*REFUSALS, *CREDENTIAL_CODES):
        return StoreError(
            f"{where} refuses the credentials ({gist}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    if isinstance(error, ReadingStopped):
        return StoreError(f"{where}: {gist}")
    if isinstance(error, FileNotFoundError) or gist == "NoSuchBucket":
        return RecipeError(f"the bucket {where} does not exist; check source in the recipe")
    return StoreError(f"{where} could not be listed: {gist}")


def _gist(text: str) -> str:
    """Return a store's error without the debug dump that follows it."""
    code = re.search(r"<Code>(\w+)</Code>", text)
    return code.group(1) if code else text.partition("Debug source")[0][:300].strip()
