"""Whisper transcription on transformers: official guards, languages, words' times, and packed windows on demand.

Every 30-s window is decoded on its own, without the text before it: that loses a little context and cannot carry a
hallucination from one window into the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from transformers import AutoTokenizer, WhisperForConditionalGeneration

from workers.models.batching import Budget
from workers.models.checkpoint_files import refuse_gaps
from workers.models.model import Clip, Loading, ModelStage
from workers.models.transcript import Transcript, WindowText, transcript_row
from workers.models.whisper_batches import in_batches, packed
from workers.models.whisper_decoding import Decoder
from workers.models.whisper_features import SAMPLE_RATE, WINDOW_SAMPLES
from workers.models.whisper_reading import Reader
from workers.models.whisper_tokens import refuse_impossible, special_tokens
from workers.models.whisper_windows import Window, cut, telling, transcripts, with_languages


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """How to transcribe.

    Attributes:
        language: a code such as "es"; None lets the model say.
        task: `translate` writes English.
        batch_size: windows on the device together, at most.
        max_new_tokens: a window's text is cut off here.
        identify: whether the language is found for every clip, or for all clips of a recording that are in one call:
            then it is the one whose probability, summed over the first windows of those clips, is highest.
        words: whether words get times.
        guards: whether a window that fails the official guards is decoded again at higher temperatures.
        pack: whether clips share windows. Then a result hangs on the clips it shared one with: speed for independence.
            They share one with clips of the same language where it is known before, else of the same recording.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    batch_size: int = 16
    max_new_tokens: int = 224
    identify: Literal["segment", "recording"] = "segment"
    words: bool = False
    guards: bool = True
    pack: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError(f"batch_size and max_new_tokens are at least 1, not {self}")


class WhisperModel:
    """A Whisper model on one device, ready to transcribe; build it with `load` or `read`."""

    sample_rate = SAMPLE_RATE

    def __init__(self, decoder: Decoder, tokenizer: Any, options: WhisperOptions) -> None:
        self._decoder = decoder
        self._reader = Reader(decoder, tokenizer, options.words)
        self._options = options
        self._language = options.language if decoder.tokens.languages else "en"
        self._budget = Budget(options.batch_size * WINDOW_SAMPLES)

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the checkpoint for the settings of the stage that fills `transcripts`."""
        settings = loading.settings("transcripts") or {}
        given = {key: settings[key] for key in ("language", "task", "identify", "words", "guards", "pack")}
        options = WhisperOptions(batch_size=loading.batch_size, **given)
        return cls.read(loading.folder, loading.device, loading.dtype, options)

    @classmethod
    def read(cls, folder: Path, device: torch.device, dtype: torch.dtype, options: WhisperOptions) -> Self:
        """Read a transformers checkpoint folder: local safetensors only, no code from the folder is run.

        `dtype` is float16 or bfloat16 on CUDA and float32 on a CPU. Raises OSError if the folder lacks a file, and
        ValueError if weights are missing, or if the model cannot do what `options` ask: another language, translation
        by an English-only model, more tokens than its context holds, words without alignment heads.
        """
        model, report = WhisperForConditionalGeneration.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        refuse_gaps(report)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        rules = model.generation_config
        tokens = special_tokens(tokenizer.get_vocab(), rules, options.task)
        heads = getattr(rules, "alignment_heads", None)
        refuse_impossible(list(tokens.languages), options.language, options.task, options.words, heads)
        room = model.config.max_target_positions - (4 if tokens.languages else 2)
        if options.max_new_tokens > room:
            raise ValueError(f"max_new_tokens is {options.max_new_tokens}; this model has room for {room}")
        return cls(Decoder(model.to(device).eval(), tokens, options.max_new_tokens), tokenizer, options)

    @torch.inference_mode()
    def run(self, clips: Sequence[Clip]) -> list[Transcript]:
        """Transcribe clips of any length, in order.

        A clip longer than 30 s is cut into consecutive 30-s windows, and their texts are joined by a space; an empty
        one is heard as silence. Raises ValueError for a waveform that is not 1-D.
        """
        windows = cut(clips, self._language)
        if self._language is None and self._options.identify == "recording":
            windows = self._with_languages(windows)
        texts = packed(windows, self._budget, self._reader.read_packed) if self._options.pack else {}
        left = [position for position in range(len(windows)) if position not in texts]
        texts |= dict(zip(left, self._alone([windows[position] for position in left]), strict=True))
        return transcripts(clips, windows, texts)

    def rows(self, result: Transcript, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the transcript."""
        return [transcript_row(result)]

    def _alone(self, windows: Sequence[Window]) -> list[WindowText]:
        """Read windows one by one in batches; those that the guards refuse once more, warmer.

        A refused window passes the encoder a second time, whatever number of temperatures it needs.
        """
        guards = self._options.guards
        texts = in_batches(
            windows,
            self._budget,
            lambda some: self._reader.read([one.sound for one in some], [one.language for one in some], guards),
        )
        failed = [position for position, text in enumerate(texts) if guards and text.doubtful]
        warmer = in_batches(
            [replace(windows[position], language=texts[position].language) for position in failed],
            self._budget,
            lambda some: self._reader.read_warmer([one.sound for one in some], [one.language or "en" for one in some]),
        )
        for position, text in zip(failed, warmer, strict=True):
            texts[position] = text
        return texts

    def _with_languages(self, windows: Sequence[Window]) -> list[Window]:
        """Find the language of every recording of which several clips are here.

        It has the highest sum of probabilities over the clips' first windows, which pass the encoder once more.
        """
        told = telling(windows)
        return with_languages(
            windows, told, in_batches(told, self._budget, self._probabilities), list(self._decoder.tokens.languages)
        )

    def _probabilities(self, windows: Sequence[Window]) -> list[np.ndarray]:
        audio = self._decoder.encode([window.sound.samples for window in windows])
        return list(self._decoder.languages(audio).double().cpu().numpy())
