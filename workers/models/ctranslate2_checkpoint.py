"""What a CTranslate2 Whisper folder says of itself, and whether it can do what a recipe asks; no weights are read.

Such a folder holds model.bin (CTranslate2's own format, not a pickle), config.json with the numbers of the tokens that
steer decoding, tokenizer.json, and vocabulary.txt or vocabulary.json.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

MULTILINGUAL_TOKENS: Final = 51_865  # so many and more tokens know languages; English-only models have one less
COMPUTE_TYPES: Final = ("int8", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16", "float32")
INSTALL: Final = "pip install -c constraints.txt '.[ctranslate2]'"


@dataclass(frozen=True, slots=True)
class Ctranslate2Checkpoint:
    """What its small files say.

    Attributes:
        languages: the codes it knows, sorted; empty where it knows English only.
        aligns: whether it says which attention heads follow the time, so that words can be timed.
    """

    languages: tuple[str, ...]
    aligns: bool

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read config.json and the vocabulary; ValueError if the folder lacks one, or tokenizer.json."""
        if not (folder / "tokenizer.json").exists():
            raise ValueError(f"{folder} holds no tokenizer.json; take it from the model it was converted from")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        vocabulary = _vocabulary(folder)
        spoken = config["lang_ids"] if len(vocabulary) >= MULTILINGUAL_TOKENS else ()
        languages = tuple(sorted(vocabulary[number].strip("<|>") for number in spoken))
        return cls(languages, bool(config.get("alignment_heads")))


def check_settings(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Raise ValueError where a folder cannot fill `transcripts` with these settings, or ctranslate2 is missing."""
    refuse_missing_engine()
    checkpoint = Ctranslate2Checkpoint.read(folder)
    known = checkpoint.languages or ("en",)
    if settings["language"] is not None and settings["language"] not in known:
        raise ValueError(f"it has no language {settings['language']!r}; it has {', '.join(known)}")
    if settings["task"] == "translate" and not checkpoint.languages:
        raise ValueError("it knows English only and cannot translate")
    if (settings["words"] or settings["pack"]) and not checkpoint.aligns:
        raise ValueError(
            "its config.json names no alignment_heads, without which words get no times and packed clips cannot be "
            "told apart; convert it anew, or leave `words` and `pack` out"
        )
    _check_options(settings["options"])


def refuse_missing_engine() -> None:
    """Raise ValueError, with the remedy, where the package ctranslate2 is not installed."""
    if importlib.util.find_spec("ctranslate2") is None:
        raise ValueError(f"a CTranslate2 model needs the package ctranslate2, which is not installed here: {INSTALL}")


def _check_options(options: dict[str, Any]) -> None:
    unknown = sorted(set(options) - {"compute_type"})
    if unknown:
        raise ValueError(f"it has the option compute_type, not {', '.join(unknown)}")
    if options and options["compute_type"] not in COMPUTE_TYPES:
        raise ValueError(f"compute_type is one of {', '.join(COMPUTE_TYPES)}, not {options['compute_type']!r}")


def _vocabulary(folder: Path) -> list[str]:
    """Return the tokens in the order of their numbers."""
    if (folder / "vocabulary.json").exists():
        tokens: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        return tokens
    if (folder / "vocabulary.txt").exists():
        return (folder / "vocabulary.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    raise ValueError(f"{folder} holds neither vocabulary.json nor vocabulary.txt")
