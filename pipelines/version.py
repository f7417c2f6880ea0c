"""Which Phonolake this is."""

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

CODE: Final = Path(__file__).resolve().parent
PROJECT: Final = CODE.parent / "pyproject.toml"


def version() -> str:
    """Return the version of this code: of the checkout it lies in, else of the installed package."""
    if PROJECT.is_file():
        return str(tomllib.loads(PROJECT.read_text())["project"]["version"])
    try:
        return metadata.version("phonolake")
    except metadata.PackageNotFoundError:  # shipped to a cluster as a folder
        return "unknown"
