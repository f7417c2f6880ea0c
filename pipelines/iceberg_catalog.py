"""Reaching an Iceberg catalog: by uri, or by the name that pyiceberg's configuration knows it by.

Secrets are never part of the name: they stand in pyiceberg's configuration (~/.pyiceberg.yaml, or
PYICEBERG_CATALOG__<NAME>__<KEY> in the environment) or come from the machine. Files in S3 are reached like the lake's.
"""

import importlib.util
from typing import TYPE_CHECKING, Any, Final

from pipelines.errors import RecipeError, WarehouseError
from pipelines.recipe_sections import without_userinfo
from pipelines.store import Store
from schemas import layout
from workers.stores import endpoint_and_region

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

NAME: Final = "phonolake"  # what a catalog that is given by uri is called in its own tables
DEFAULT_REGION: Final = "us-east-1"


def check_catalog(catalog: str) -> None:
    """Refuse what can be refused without asking the catalog, before a night is spent.

    Raises:
        RecipeError: pyiceberg is missing, the uri holds a password, or nobody configured a catalog of this name.
    """
    if importlib.util.find_spec("pyiceberg") is None:
        raise RecipeError("Iceberg tables need pyiceberg: in the clone, pip install -c constraints.txt -e '.[iceberg]'")
    if "://" not in catalog:
        _configured(catalog)
        return
    try:
        without_userinfo(catalog)
    except ValueError:
        advice = "give it a name in ~/.pyiceberg.yaml, or in PYICEBERG_CATALOG__<NAME>__URI, and use that name"
        raise RecipeError(f"the catalog's uri holds credentials; {advice}") from None


def open_catalog(store: Store, catalog: str) -> "Catalog":
    """Return the catalog, ready to write metadata beside `store`'s lake where it names no place of its own.

    Raises:
        RecipeError: see check_catalog.
        WarehouseError: the catalog refuses or does not answer.
    """
    check_catalog(catalog)
    from pyiceberg.catalog import load_catalog

    properties = _by_uri(store, catalog) if "://" in catalog else _configured(catalog)
    files = {key: value for key, value in _files(store).items() if key not in properties}
    name = NAME if "://" in catalog else catalog
    try:
        return load_catalog(name, **properties, **files)
    except Exception as error:
        raise WarehouseError(f"cannot open the catalog {catalog}: {type(error).__name__}: {error}") from error


def data_uri(store: Store, path: str) -> str:
    """Return how a table's metadata names a file of the lake."""
    return f"file://{store.full(path)}" if store.is_local else store.url(path)


def _by_uri(store: Store, uri: str) -> dict[str, Any]:
    beside = {} if uri.startswith("http") else {"warehouse": data_uri(store, layout.ICEBERG)}  # a REST server knows
    return {"uri": uri, **beside}


def _configured(name: str) -> dict[str, Any]:
    from pyiceberg.utils.config import Config

    properties = Config().get_catalog_config(name)
    if not properties:
        raise RecipeError(
            f"pyiceberg knows no catalog {name}: describe it in ~/.pyiceberg.yaml or set "
            f"PYICEBERG_CATALOG__{name.upper()}__URI, or give a uri such as sqlite:////srv/phonolake/catalog.db"
        )
    return dict(properties)


def _files(store: Store) -> dict[str, Any]:
    """Return where the lake's S3 is; credentials are found by pyiceberg in the same environment."""
    if store.is_local:
        return {}
    endpoint, region = endpoint_and_region(store.options)
    if endpoint is None:  # Amazon's: pyiceberg asks it for the bucket's region
        return {"s3.region": region} if region else {}
    return {"s3.endpoint": endpoint, "s3.region": region or DEFAULT_REGION}
