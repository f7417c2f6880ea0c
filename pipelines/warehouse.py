"""Feeding the warehouse as the last step of a command that carries a recipe out.

It comes after the seal and changes nothing in the lake. What a catalog refuses is said once the run's own summary is
out, and the next command registers it, whether there is anything new to compute or not.
"""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.errors import PhonolakeError, WarehouseError
from pipelines.iceberg import Registered, register, registration_text
from pipelines.iceberg_catalog import check_catalog
from pipelines.recipe import Recipe
from pipelines.recipe_sections import IcebergSection
from pipelines.store import lake_store
from schemas import layout


@dataclass(frozen=True, slots=True)
class Fed:
    """What a command registered, and what stopped it."""

    wanted: IcebergSection | None
    made: list[Registered]
    error: PhonolakeError | None = None

    def facts(self) -> dict[str, Any]:
        """Return what was registered, for --json; nothing where the recipe names no warehouse."""
        return {"warehouse": [asdict(one) for one in self.made]} if self.wanted else {}

    def text(self) -> str:
        """Return what was registered, as lines to follow a summary."""
        if self.wanted is None or (self.error and not self.made):
            return ""
        lines = registration_text(self.made, self.wanted.namespace).splitlines()
        return "".join(f"\n  warehouse: {line}" for line in lines)

    def check(self) -> None:
        """Say what stopped it.

        Raises:
            WarehouseError: a catalog refused.
        """
        if self.error:
            raise WarehouseError(
                f"{self.error}\nthe lake itself is whole, what ended is sealed; once the catalog takes it, the same "
                f"command registers what is missing"
            ) from self.error


def check_warehouse(recipe: Recipe) -> None:
    """Refuse a recipe whose warehouse this installation cannot feed, before a night is spent."""
    if recipe.warehouse and recipe.warehouse.iceberg:
        check_catalog(recipe.warehouse.iceberg.catalog)


def feed_warehouse(recipe: Recipe) -> Fed:
    """Register every sealed run that the recipe's warehouse lacks."""
    wanted = recipe.warehouse.iceberg if recipe.warehouse else None
    made: list[Registered] = []
    if wanted is None:
        return Fed(None, made)
    store = lake_store(recipe.lake)
    try:
        if store.list(layout.RUNS):
            for one in register(store, wanted.catalog, wanted.namespace):
                made.append(one)  # as they come: what stands is told even where the next is refused
    except PhonolakeError as error:
        return Fed(wanted, made, error)
    except Exception as error:  # of a store or a catalog: what was sealed is said before it
        return Fed(wanted, made, WarehouseError(f"{type(error).__name__}: {error}"))
    return Fed(wanted, made)
