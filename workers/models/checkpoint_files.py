"""A transformers checkpoint's own words on itself: its configuration files, and whether its weights were all read."""

import json
from pathlib import Path
from typing import Any

COMPUTED = ("position_ids", "token_type_ids", "relative_position_index")
"""Ends of the names of buffers that a class makes itself; releases differ in whether checkpoints hold them."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json."""
    return _read(folder / "config.json")


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """Return the settings of the feature extractor, from either of the files that transformers writes them to.

    Raises:
        ValueError: the folder holds neither.
    """
    if (folder / "preprocessor_config.json").exists():
        return _read(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").exists():
        found = _read(folder / "processor_config.json").get("feature_extractor")
        if isinstance(found, dict):
            return found
    raise ValueError(f"{folder} holds no preprocessor_config.json, which says how its audio is prepared")


def read_vocabulary(folder: Path) -> dict[str, Any]:
    """Return vocab.json: labels with their numbers, or such a vocabulary for each of several languages; or nothing."""
    return _read(folder / "vocab.json") if (folder / "vocab.json").exists() else {}


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Return tokenizer_config.json, or nothing."""
    return _read(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}


def refuse_gaps(told: dict[str, Any]) -> None:
    """Raise where the weights of a checkpoint are not those of its class; transformers only warns of it.

    `told` is what `from_pretrained(..., output_loading_info=True)` says.

    Raises:
        ValueError: weights are missing, are left over, or have other shapes.
    """
    gaps = {
        "missing": _names(told["missing_keys"]),
        "unexpected": _names(told["unexpected_keys"]),
        "of another shape": sorted(str(one[0]) for one in told["mismatched_keys"]),
    }
    said = [f"{what}: {', '.join(names[:3])} ({len(names)})" for what, names in gaps.items() if names]
    if said:
        raise ValueError(f"its weights are not those of its class; {'; '.join(said)}")


def _names(keys: Any) -> list[str]:
    return sorted(key for key in keys if not key.endswith(COMPUTED))


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object")
    return content
