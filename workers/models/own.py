"""A model of your own: a class in a module of yours, named in the recipe as `module:Class`.

It needs `sample_rate` and the three methods of workers.models.model.Model, and is found where Python finds modules: an
installed package, the folder the command was started in, or the working directory of a Ray job.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from workers.models.model import Loading, Model

NAME: Final = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
CODE_FOLDER: Final = "PHONOLAKE_CODE"  # environment variable: where the command was started, for its workers
_NEEDED: Final = ("sample_rate", "load", "run", "rows")


def own_class(name: str) -> type[Any]:
    """Return the class `module:Class`.

    Raises:
        ValueError: there is no such module or class, or it lacks a method; the message says which.
    """
    module_name, _, class_name = name.partition(":")
    try:
        module = _imported(module_name, [str(Path.cwd()), os.environ.get(CODE_FOLDER, "")])
    except Exception as error:  # a module of somebody's may raise anything
        raise ValueError(f"its module cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise ValueError(f"{module.__file__} has no class {class_name}")
    missing = [needed for needed in _NEEDED if not hasattr(found, needed)]
    if missing:
        raise ValueError(f"class {class_name} of {module.__file__} lacks {', '.join(missing)}; see docs/own_models.md")
    return found


def _imported(module: str, folders: Sequence[str]) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = [folder for folder in folders if folder and folder not in sys.path]
        if error.name != module.partition(".")[0] or not missing:
            raise
    sys.path += missing
    importlib.invalidate_caches()
    return importlib.import_module(module)


def root_folder(found: type[Any]) -> Path:
    """Return the folder from which the class's module is imported."""
    return Path(inspect.getfile(found)).resolve().parents[found.__module__.count(".")]


def class_digest(found: type[Any]) -> str:
    """Return what tells versions of a class apart: sha256 over its module's source and its `version`, if it has one."""
    content = Path(inspect.getfile(found)).read_bytes() + str(getattr(found, "version", "")).encode()
    return hashlib.sha256(content).hexdigest()


def load_own(loading: Loading) -> Model:
    """Make a model of the class that `loading` names."""
    model: Model = own_class(loading.name).load(loading)
    return model
