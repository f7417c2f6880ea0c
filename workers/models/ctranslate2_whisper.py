"""Whisper on CTranslate2: the `faster-whisper` checkpoints, in 8 bits on a CPU, in batches over clips and recordings.

Features, windows, guards, packing and rows are those of the transformers engine. On a CPU, every row of an 8-bit matrix
product is quantised on its own, so a window's text and numbers do not depend on its batch. Sampling, at a temperature
above 0, does depend on it: CTranslate2 4.8 seeds one generator per thread, once, and no later seed reaches it. What is
sampled repeats where a new process decodes the same windows in the same order, and not else; a row's `temperature`
tells.
"""

from collections.abc import Sequence
from typing import Any, Self

import tokenizers

from workers.models.batching import Budget
from workers.models.ctranslate2_checkpoint import Ctranslate2Checkpoint
from workers.models.ctranslate2_engine import Ctranslate2Engine
from workers.models.ctranslate2_reading import Reader, Rules
from workers.models.model import Clip, Loading, ModelStage
from workers.models.transcript import Transcript, transcript_row
from workers.models.whisper_batches import in_batches, packed
from workers.models.whisper_features import SAMPLE_RATE, WINDOW_SAMPLES
from workers.models.whisper_tokens import Tokens
from workers.models.whisper_windows import cut, telling, transcripts, with_languages


class Ctranslate2WhisperModel:
    """Whisper on CTranslate2, as a pool runs it; build it with `load`."""

    sample_rate = SAMPLE_RATE

    def __init__(
        self, engine: Ctranslate2Engine, tokenizer: tokenizers.Tokenizer, tokens: Tokens, rules: Rules, budget: Budget
    ) -> None:
        self._reader = Reader(engine, tokenizer, tokens, rules)
        self._rules = rules
        self._budget = budget
        self._codes = list(tokens.languages)
        self._language = rules.language if self._codes else "en"

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read a CTranslate2 folder; `loading.batch_size` counts 30-s windows.

        The network runs in int8 on a CPU and in `loading.dtype` on CUDA, unless the option `compute_type` says
        otherwise. Raises ValueError if a file is missing, RuntimeError if CTranslate2 cannot read the weights.
        """
        settings = loading.settings("transcripts") or {}
        languages = Ctranslate2Checkpoint.read(loading.folder).languages
        tokenizer = tokenizers.Tokenizer.from_file(str(loading.folder / "tokenizer.json"))
        compute_type = settings["options"].get("compute_type") or _compute_type(loading)
        return cls(
            Ctranslate2Engine.load(loading.folder, loading.device, compute_type),
            tokenizer,
            _special_tokens(tokenizer, languages, settings["task"]),
            Rules(*(settings[name] for name in ("language", "identify", "words", "guards", "pack"))),
            Budget(loading.batch_size * WINDOW_SAMPLES),
        )

    def run(self, clips: Sequence[Clip]) -> list[Transcript]:
        """Transcribe clips of any length; ValueError for a waveform that is not 1-D.

        A clip longer than 30 s is cut into consecutive 30-s windows, whose texts are joined by a space; an empty one is
        heard as silence. With `identify: recording` all clips of a recording in this call are in one language.
        """
        windows = cut(clips, self._language)
        if self._language is None and self._rules.identify == "recording":
            told = telling(windows)
            windows = with_languages(
                windows, told, in_batches(told, self._budget, self._reader.probabilities), self._codes
            )
        texts = packed(windows, self._budget, self._reader.read_packed) if self._rules.pack else {}
        left = [position for position in range(len(windows)) if position not in texts]
        alone = in_batches([windows[position] for position in left], self._budget, self._reader.read)
        return transcripts(clips, windows, texts | dict(zip(left, alone, strict=True)))

    def rows(self, result: Transcript, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the transcript."""
        return [transcript_row(result)]


def _special_tokens(tokenizer: tokenizers.Tokenizer, languages: Sequence[str], task: str) -> Tokens:
    def number(*names: str) -> int:
        found = [known for name in names if (known := tokenizer.token_to_id(f"<|{name}|>")) is not None]
        if not found:
            raise ValueError(f"its tokenizer.json has no token <|{names[0]}|>: it belongs to another model")
        return int(found[0])

    return Tokens(
        start=number("startoftranscript"),
        end=number("endoftext"),
        no_timestamps=number("notimestamps"),
        no_speech=number("nospeech", "nocaptions"),
        task=number(task),
        languages={code: number(code) for code in languages},
    )


def _compute_type(loading: Loading) -> str:
    return "int8" if loading.device.type == "cpu" else str(loading.dtype).removeprefix("torch.")
