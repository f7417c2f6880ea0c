"""Every key of a recipe as a page: what it takes, what it is without, what it does. Read off the sections themselves.

`python -m pipelines.recipe_reference` prints it; docs/recipe.md is that.
"""

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from pipelines.recipe import Recipe
from pipelines.recipe_sections import Section

HEADER: Final = """\
# Every key of a recipe

Made by `python -m pipelines.recipe_reference > docs/recipe.md` from
[recipe_sections.py](../pipelines/recipe_sections.py), and held to it by a test.

A recipe is YAML; unknown keys are refused with the nearest known one; `phonolake plan RECIPE` prints it with its
defaults. `--set key.path=value` changes a key for one command, and its value is YAML: `--set segments.by=whole`,
`--set 'tags=[{model: yamnet}]'`. Credentials are no part of a recipe: they come from the environment. To an open run a
recipe that would write other rows is another recipe (exit code 4); `pools` (but `dtype`), `warehouse`,
`limits.max_failed_fraction` and `limits.tolerated_failures` may change at any time.
"""
SIMPLE: Final[dict[Any, str]] = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any"}
BOUNDS: Final = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def reference() -> str:
    """Return the page, Markdown."""
    return "\n".join([HEADER, *_section("The recipe", "", Recipe), *_sections("", Recipe)])


def _sections(path: str, kind: type[Section]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None:
            where = f"{path}.{name}" if path else name
            yield from _section(f"`{where}`", inner.__doc__ or "", inner)
            yield from _sections(where, inner)


def _section(title: str, about: str, kind: type[Section]) -> Iterator[str]:
    yield f"## {title}\n"
    if about:
        yield "\n".join(line.strip() for line in about.strip().splitlines()) + "\n"
    yield "| key | takes | default | |"
    yield "|---|---|---|---|"
    for name, field in kind.model_fields.items():
        takes = ", ".join([_type(field.annotation), *_bounds(field)])
        yield f"| `{name}` | {takes} | {_default(field)} | {' '.join((field.description or '').split())} |"
    yield ""


def section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a key holds, alone or in a list; None where it holds a value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for one in get_args(annotation) if (found := section_in(one)) is not None), None)


def _type(annotation: Any) -> str:
    """Return what a key takes, in a reader's words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([_type(arguments[0]), *_limits(arguments[1:])])
    if origin is Literal:
        return " \\| ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        inner = section_in(annotation)
        return "list of sections" if inner else f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if origin in (types.UnionType, Union):
        return " or ".join(_type(one) for one in arguments if one is not types.NoneType)
    return "section" if section_in(annotation) else SIMPLE[annotation]


def _bounds(field: FieldInfo) -> list[str]:
    return _limits(tuple(field.metadata))


def _limits(metadata: tuple[Any, ...]) -> list[str]:
    """Return the bounds of a number or a text among the metadata of its type."""
    found = []
    for one in metadata:
        for inner in (*getattr(one, "metadata", ()), one):
            found += [
                said.format(f"{value:g}")
                for name, said in BOUNDS.items()
                if (value := getattr(inner, name, None)) is not None
            ]
            if pattern := getattr(inner, "pattern", None):
                found.append(f"`{pattern}`")
    return found


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.default
    if value is None or value in ((), {}):
        return ""
    if isinstance(value, Section):
        return "its defaults"
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    return f"`{json.dumps(value) if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(reference(), end="")
