"""What a job takes along to a cluster: our three packages, the recipe, and the module of a model of one's own.

Nothing of the environment is shipped, and so no secret: a job finds credentials where its node has them.
"""

import re
import shutil
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

import yaml

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe, parse_recipe
from workers.models.own import NAME

PACKAGES: Final = ("pipelines", "workers", "schemas")
RECIPE_FILE: Final = "recipe.yaml"
_LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
_OUR_DEMO: Final = Path(__file__).parent / "demo"  # its clips are heavier than all code


def pack(recipe: Recipe, folder: Path) -> None:
    """Fill an empty folder with everything that `python -m pipelines run recipe.yaml` needs there.

    Raises:
        RecipeError: a model is named by a path that means nothing elsewhere, or its module is not to be found here.
    """
    for package in PACKAGES:
        shutil.copytree(_OUR_DEMO.parents[1] / package, folder / package, ignore=_ignored)
    for name in model_names(recipe):
        if NAME.match(name):
            _pack_module(name, folder)
        elif Path(name).expanduser().is_dir() and not Path(name).is_absolute():
            raise RecipeError(
                f"model {name} is a folder of this machine, named from where this command was started; on a cluster "
                f"name it by an absolute path that every node has, or put it on a store and give its uri"
            )
    (folder / RECIPE_FILE).write_text(portable(recipe))


def portable(recipe: Recipe) -> str:
    """Return a recipe as YAML that is the same when it is read again: only what was given, and paths absolute."""
    content = recipe.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    assert parse_recipe(content, RECIPE_FILE).fingerprint() == recipe.fingerprint()
    return yaml.safe_dump(content, sort_keys=False)


def local_paths(recipe: Recipe) -> list[str]:
    """Return what a recipe names on this machine's disk; every node must see it at the same place."""
    places = [recipe.source.where, recipe.lake.uri, *model_names(recipe)]
    return [place for place in places if place.startswith("/")]


def model_names(recipe: Recipe) -> list[str]:
    """Return the models that a recipe names, each once."""
    names = [section.model for section in recipe.embeddings]
    names += [section.model for section in recipe.tags]
    names += [section.model for section in recipe.transcripts]
    names += [section.align_with for section in recipe.transcripts if section.align_with]
    return list(dict.fromkeys(names))


def _pack_module(name: str, folder: Path) -> None:
    """Copy the module of `module:Class`: its whole package, or the module and the .py files beside it."""
    top = re.split(r"[.:]", name)[0]
    found = PathFinder.find_spec(top, None) or PathFinder.find_spec(top, [str(Path.cwd())])
    if found is None or found.origin is None:
        raise RecipeError(f"model {name}: there is no module {top} here; start this command in the folder it lies in")
    origin = Path(found.origin).resolve()
    if _is_installed(origin):
        return  # with pip: a matter of the cluster's image, as is everything that it imports
    if found.submodule_search_locations:
        shutil.copytree(origin.parent, folder / top, ignore=_LEFT_OUT, dirs_exist_ok=True)
        return
    for file in sorted(origin.parent.glob("*.py")):
        shutil.copy(file, folder / file.name)


def _is_installed(file: Path) -> bool:
    return any(
        file.is_relative_to(Path(sysconfig.get_path(kind)).resolve()) for kind in ("purelib", "platlib", "stdlib")
    )


def _ignored(folder: str, names: list[str]) -> set[str]:
    return _LEFT_OUT(folder, names) | ({"corpus"} if Path(folder) == _OUR_DEMO else set())
