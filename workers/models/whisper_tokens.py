"""The tokens that steer Whisper, and what a checkpoint says it can do; read from its configuration, without torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RULES_FILE: Final = "generation_config.json"
MULTILINGUAL_VOCABULARY: Final = 51_865  # tokens; English-only vocabularies have 51,864


@dataclass(frozen=True, slots=True)
class Tokens:
    """The numbers that one vocabulary gives to the tokens that steer Whisper; `languages` is empty if English only."""

    start: int
    end: int
    no_timestamps: int
    no_speech: int
    task: int
    languages: dict[str, int]

    @property
    def first_timestamp(self) -> int:
        """The token of 0.00 s; those of 0.02 s, 0.04 s ... follow."""
        return self.no_timestamps + 1

    def after_start(self, language: str, timestamps: bool) -> list[int]:
        """Return the prompt that follows the start token."""
        steering = [self.languages[language], self.task] if self.languages else []
        return steering if timestamps else [*steering, self.no_timestamps]


def special_tokens(vocabulary: dict[str, int], rules: Any, task: str) -> Tokens:
    """Find the steering tokens; `rules` is the checkpoint's transformers GenerationConfig."""
    languages = rules.lang_to_id if getattr(rules, "is_multilingual", False) else {}
    return Tokens(
        start=vocabulary["<|startoftranscript|>"],
        end=vocabulary["<|endoftext|>"],
        no_timestamps=vocabulary["<|notimestamps|>"],
        # The hub's older vocabularies, and the packaged ones, call the same token by its first name.
        no_speech=vocabulary.get("<|nospeech|>") or vocabulary["<|nocaptions|>"],
        task=vocabulary[f"<|{task}|>"],
        languages={token.strip("<|>"): number for token, number in languages.items()},
    )


def refuse_impossible(languages: Sequence[str], language: str | None, task: str, words: bool, heads: Any) -> None:
    """Raise ValueError where a model cannot do what is asked.

    `languages` is empty for an English-only model; `heads` are the alignment heads that its configuration names.
    """
    known = sorted(languages) or ["en"]
    if language is not None and language not in known:
        raise ValueError(f"this model has no language {language!r}; it has {', '.join(known)}")
    if task == "translate" and not languages:
        raise ValueError("an English-only model cannot translate; use a multilingual one, or leave `task` out")
    if words and not heads:
        raise ValueError(
            f"`words: true` needs alignment heads, and its {RULES_FILE} names none: copy `alignment_heads` from the "
            "checkpoint that it was trained from, or leave `words` out"
        )


def check_settings(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Refuse settings of the section `transcripts` that a checkpoint folder's configuration cannot follow.

    Raises:
        ValueError: another language, translation by an English-only model, words without alignment heads, options.
    """
    if settings.get("options"):
        raise ValueError(f"it has no options, not {', '.join(settings['options'])}")
    path = folder / RULES_FILE
    rules = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    languages = [token.strip("<|>") for token in rules.get("lang_to_id") or {}] if rules.get("is_multilingual") else []
    if not languages and _vocabulary_size(folder) >= MULTILINGUAL_VOCABULARY:
        raise ValueError(
            f"it knows many languages, and its {RULES_FILE} does not say which (is_multilingual, lang_to_id): copy "
            "that file from the checkpoint that it was trained from"
        )
    words, heads = bool(settings.get("words")), rules.get("alignment_heads")
    refuse_impossible(languages, settings.get("language"), settings.get("task", "transcribe"), words, heads)


def _vocabulary_size(folder: Path) -> int:
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return int(content.get("vocab_size") or 0)
