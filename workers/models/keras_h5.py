"""Weights that Keras saved as HDF5, read with h5py; an optional dependency, imported by who reads."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

INSTALL: Final = "reading .h5 weights needs h5py: pip install -c constraints.txt '.[hdf5]'"

Array = np.ndarray


def require_h5py() -> None:
    """Raise ValueError, which tells the remedy, where h5py is not installed; does not import it."""
    if importlib.util.find_spec("h5py") is None:
        raise ValueError(INSTALL)


def read_layers(path: Path) -> list[tuple[str, list[Array]]]:
    """Return the layers that have weights, in the file's own order: name, and weights in float32 in Keras order.

    Names are numbered differently by each version of Keras, order is kept by all. Source: keras load_weights, which
    goes by the attributes `layer_names` and `weight_names` as well.

    Raises:
        ValueError: h5py is missing, or the file is not such a file.
    """
    with _opened(path) as file:
        root: Any = file["model_weights"] if "layer_names" not in file.attrs and "model_weights" in file else file
        if "layer_names" not in root.attrs:
            raise ValueError(f"{path} holds no weights as Keras saves them: it has no attribute layer_names")
        layers = [(_text(name), root[name]) for name in root.attrs["layer_names"]]
        read = [(name, [_array(group[one]) for one in group.attrs.get("weight_names", ())]) for name, group in layers]
    return [(name, arrays) for name, arrays in read if arrays]


def read_datasets(path: Path) -> Mapping[str, Array]:
    """Return all datasets of a file by their path in it, in float32.

    Raises:
        ValueError: h5py is missing, or the file is not HDF5.
    """
    import h5py

    found: dict[str, Array] = {}
    with _opened(path) as file:
        file.visititems(
            lambda name, item: found.update({name: _array(item)}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def _opened(path: Path) -> Any:
    require_h5py()
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file ({error}); a downloaded .gz has to be unpacked first") from None


def _array(dataset: Any) -> Array:
    return np.asarray(dataset[()], np.float32)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
