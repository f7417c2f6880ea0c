"""Languages of a CTC checkpoint that has many: for each a vocabulary in vocab.json, and a file with its adapter.

So is facebook/mms-1b-all made. An adapter is small layers inside the encoder and the head behind it. Source:
transformers 5.17, Wav2Vec2PreTrainedModel.load_adapter and Wav2Vec2CTCTokenizer.set_target_lang.
"""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from workers.models.checkpoint_files import read_config, read_tokenizer_config, read_vocabulary

ADAPTER_FILES: Final = "adapter.*.safetensors"
ADAPTED: Final = "wav2vec2"  # the one model_type whose class in transformers loads adapters
LISTED: Final = 20  # languages that a message names


def adapter_file(language: str) -> str:
    """Return the name of the file with a language's adapter."""
    return f"adapter.{language}.safetensors"


def is_adapter(name: str) -> bool:
    """Return whether a file of this name holds a language's adapter."""
    return fnmatchcase(name, ADAPTER_FILES)


def languages_of(folder: Path) -> list[str]:
    """Return the languages that vocab.json has a vocabulary for; none where it holds a single one, or is not there."""
    return sorted(name for name, entry in read_vocabulary(folder).items() if isinstance(entry, dict))


def check_language(folder: Path, language: str | None) -> None:
    """Refuse a language that a CTC checkpoint cannot be told to hear; None is the one its own weights are of.

    Where it has a single vocabulary and no adapters, any language is taken, and only written into the rows.

    Raises:
        ValueError: it has no such language, lacks its adapter, or has many languages and does not say which is its own.
    """
    config, known = read_config(folder), languages_of(folder)
    if language is None:
        if known and read_tokenizer_config(folder).get("target_lang") not in known:
            raise ValueError(f"it has many languages, and none by default; name one in `language`: {_listed(known)}")
    elif known:
        if language not in known:
            raise ValueError(f"it has no language {language!r}; name one of {_listed(known, language)}")
        if config.get("model_type") != ADAPTED or not config.get("adapter_attn_dim"):
            raise ValueError("its network has no place for adapters of languages; leave `language` out")
        _refuse_missing_adapter(folder, language)
    elif config.get("adapter_attn_dim"):
        raise ValueError("its vocab.json is of one language, with no others to choose from; leave `language` out")


def _refuse_missing_adapter(folder: Path, language: str) -> None:
    file = adapter_file(language)
    if not (folder / file).is_file():
        found = sorted(path.name.split(".")[1] for path in folder.glob(ADAPTER_FILES))
        there = f"there are those of {_listed(found, language)}" if found else "there is none of any language"
        raise ValueError(
            f"{folder} lacks {file}, the adapter of {language!r}; {there}; add the file (an adapter.{language}.bin is "
            "to be converted to safetensors), or name another language; if the folder is a hub's, the hub has no such "
            "file or was not reached"
        )


def _listed(languages: Sequence[str], asked: str = "") -> str:
    """Return some languages as a text, those with names like `asked` first."""
    near = difflib.get_close_matches(asked, languages, n=LISTED // 2, cutoff=0.5)
    chosen = [*near, *(one for one in languages if one not in near)][:LISTED]
    more = len(languages) - len(chosen)
    return ", ".join(chosen) + (f" and {more} more, the keys of its vocab.json" if more else "")
