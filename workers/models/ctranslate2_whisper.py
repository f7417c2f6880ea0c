"""Whisper on CTranslate2: the `faster-whisper` checkpoints, in 8 bits on a CPU, in batches over clips and recordings.

Features, windows, guards and rows are those of the transformers engine. On a CPU, every row of an 8-bit matrix product
is quantised on its own, so a window's text and numbers do not depend on its batch. Sampling, at a temperature above 0,
does depend on it: CTranslate2 4.8 seeds one generator per thread, once, and no later seed reaches it. What is sampled
repeats where a new process decodes the same windows in the same order, and not else; a row's `temperature` tells.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import ctranslate2
import numpy as np
import tokenizers

from workers.models.batching import Budget, run_batched
from workers.models.ctranslate2_checkpoint import Ctranslate2Checkpoint
from workers.models.ctranslate2_engine import Ctranslate2Engine, Generated, TokenTimes, some_windows
from workers.models.model import Clip, Loading, ModelStage
from workers.models.transcript import Transcript, WindowText, Word, join, surest, transcript_row
from workers.models.whisper_features import SAMPLE_RATE, WINDOW_SAMPLES
from workers.models.whisper_grouping import group_tokens
from workers.models.whisper_guards import TEMPERATURES, sound_level, sound_span
from workers.models.whisper_words import settle


@dataclass(frozen=True, slots=True)
class _Rules:
    """The recipe's settings that steer decoding, by the same names."""

    language: str | None
    identify: str
    words: bool
    guards: bool


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The numbers of the tokens that steer Whisper; `languages` is empty if English only."""

    start: int
    end: int
    no_timestamps: int
    task: int
    languages: dict[str, int]

    def prompt(self, language: str) -> list[int]:
        """Return what stands before the text, without the last token, which says that there are no timestamps."""
        return [self.start, *([self.languages[language], self.task] if self.languages else [])]


@dataclass(frozen=True, slots=True)
class _Language:
    code: str
    probability: float


@dataclass(frozen=True, slots=True)
class _Window:
    """At most 30 s of the clip at position `owner`, from `start` in its recording (seconds)."""

    owner: int
    first: bool  # of its clip
    recording_id: str
    start: float
    samples: np.ndarray


@dataclass(frozen=True, slots=True)
class _Decoded:
    said: WindowText
    tokens: list[int]  # of the text


class Ctranslate2WhisperModel:
    """Whisper on CTranslate2, as a pool runs it; build it with `load`."""

    sample_rate = SAMPLE_RATE

    def __init__(
        self, engine: Ctranslate2Engine, tokenizer: tokenizers.Tokenizer, tokens: _Tokens, rules: _Rules, budget: Budget
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._rules = rules
        self._budget = budget
        self._codes = list(tokens.languages)

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
            _Rules(*(settings[name] for name in ("language", "identify", "words", "guards"))),
            Budget(loading.batch_size * WINDOW_SAMPLES),
        )

    def run(self, clips: Sequence[Clip]) -> list[Transcript]:
        """Transcribe clips of any length; ValueError for a waveform that is not 1-D.

        A clip longer than 30 s is cut into consecutive 30-s windows, whose texts are joined by a space; an empty one is
        heard as silence. With `identify: recording` all clips of a recording in this call are in one language.
        """
        windows = [window for owner, clip in enumerate(clips) for window in _cut(owner, clip)]
        told = self._languages_of_recordings(windows)
        together = self._batched(windows, lambda batch: self._decode(batch, told))
        pairs: list[list[tuple[WindowText, float]]] = [[] for _ in clips]
        for window, said in zip(windows, together, strict=True):
            pairs[window.owner].append((said, window.start))
        return [join(*zip(*of_clip, strict=True)) for of_clip in pairs]

    def rows(self, result: Transcript, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the transcript."""
        return [transcript_row(result)]

    def _batched(self, windows: Sequence[_Window], compute: Any) -> list[Any]:
        """Call `compute` with batches of windows; those of like length go together, for they end at about one step."""
        lengths = [len(window.samples) for window in windows]
        return run_batched(
            lengths, self._budget, lambda rows, _: compute([windows[row] for row in rows]), WINDOW_SAMPLES
        )

    def _languages_of_recordings(self, windows: Sequence[_Window]) -> dict[str, str]:
        """Return the language of every recording of which several clips are here, where it is told from all of them.

        It has the highest sum of probabilities over the clips' first windows, which pass the encoder once more.
        """
        if self._rules.identify == "segment" or self._rules.language is not None or not self._tokens.languages:
            return {}
        firsts = [window for window in windows if window.first and window.recording_id]
        clips = Counter(window.recording_id for window in firsts)
        firsts = [window for window in firsts if clips[window.recording_id] > 1]
        sums: dict[str, np.ndarray] = {}
        heard = self._batched(firsts, lambda batch: self._probabilities(self._encode(batch)))
        for window, probabilities in zip(firsts, heard, strict=True):
            sums[window.recording_id] = sums.get(window.recording_id, 0.0) + probabilities
        return {recording: self._codes[int(total.argmax())] for recording, total in sums.items()}

    def _decode(self, windows: Sequence[_Window], told: dict[str, str]) -> list[WindowText]:
        """Decode one batch; `told` are the languages of recordings where those are known."""
        audio = self._encode(windows)
        given = self._rules.language
        languages = self._languages(audio, [given or told.get(window.recording_id) for window in windows])
        decoded = self._texts(audio, windows, languages)
        return self._with_words(audio, windows, decoded) if self._rules.words else [one.said for one in decoded]

    def _encode(self, windows: Sequence[_Window]) -> ctranslate2.StorageView:
        return self._engine.encode([window.samples for window in windows])

    def _languages(self, audio: ctranslate2.StorageView, told: Sequence[str | None]) -> list[_Language]:
        """Return each window's language, the likeliest where none is told, with its probability among all."""
        if not self._codes:
            return [_Language("en", 1.0)] * len(told)
        chosen = []
        for code, probabilities in zip(told, self._probabilities(audio), strict=True):
            best = self._codes.index(code) if code is not None else int(probabilities.argmax())
            chosen.append(_Language(self._codes[best], float(probabilities[best])))
        return chosen

    def _probabilities(self, audio: ctranslate2.StorageView) -> list[np.ndarray]:
        return self._engine.language_probabilities(audio, self._codes)

    def _texts(
        self, audio: ctranslate2.StorageView, windows: Sequence[_Window], languages: Sequence[_Language]
    ) -> list[_Decoded]:
        """Take the likeliest tokens; decode windows that fail the guards again, at the next higher temperature."""
        tries = [[one] for one in self._generate(audio, windows, languages, TEMPERATURES[0])]
        for temperature in TEMPERATURES[1:] if self._rules.guards else ():
            failed = [row for row, found in enumerate(tries) if found[-1].said.doubtful]
            if not failed:
                break
            of_failed = [windows[row] for row in failed], [languages[row] for row in failed]
            again = self._generate(some_windows(audio, failed), *of_failed, temperature)
            for row, one in zip(failed, again, strict=True):
                tries[row].append(one)
        return [found[surest([one.said for one in found])] for found in tries]

    def _generate(
        self,
        audio: ctranslate2.StorageView,
        windows: Sequence[_Window],
        languages: Sequence[_Language],
        temperature: float,
    ) -> list[_Decoded]:
        prompts = [[*self._tokens.prompt(language.code), self._tokens.no_timestamps] for language in languages]
        generated = self._engine.generate(audio, prompts, temperature)
        columns = zip(generated, windows, languages, strict=True)
        return [self._decoded(one, window, language, temperature) for one, window, language in columns]

    def _decoded(self, generated: Generated, window: _Window, language: _Language, temperature: float) -> _Decoded:
        tokens = [number for number in generated.numbers if number < self._tokens.end]
        said = WindowText(
            language=language.code,
            language_probability=language.probability,
            text=self._text(tokens).strip(),
            logprob=generated.logprob,
            tokens=len(generated.numbers) + 1,
            no_speech_probability=generated.no_speech_probability,
            temperature=temperature,
            truncated=generated.truncated,
            level=sound_level(window.samples),
        )
        return _Decoded(said, tokens)

    def _with_words(
        self, audio: ctranslate2.StorageView, windows: Sequence[_Window], decoded: Sequence[_Decoded]
    ) -> list[WindowText]:
        """Add the words with their times; windows of one language and as many tokens are aligned in one call.

        Beside a longer text a shorter one would be padded, which changes its numbers a little in 8 bits.
        """
        said = [replace(one.said, words=()) for one in decoded]
        alike: dict[tuple[str, int], list[int]] = {}
        for row, one in enumerate(decoded):
            if one.tokens:
                alike.setdefault((one.said.language, len(one.tokens)), []).append(row)
        for (language, _), rows in alike.items():
            tokens = [decoded[row].tokens for row in rows]
            samples = [len(windows[row].samples) for row in rows]
            times = self._engine.align(some_windows(audio, rows), self._tokens.prompt(language), tokens, samples)
            for row, of_row in zip(rows, times, strict=True):
                said[row] = replace(said[row], words=self._words(decoded[row], of_row, windows[row]))
        return said

    def _words(self, decoded: _Decoded, times: TokenTimes, window: _Window) -> tuple[Word, ...]:
        words, first = [], 0
        for text, count in group_tokens(self._tokenizer, decoded.tokens, decoded.said.language):
            after = first + count
            sure = float(np.mean(times.probabilities[first:after]))
            words.append(Word(text, times.begins[first], times.begins[after], sure))
            first = after
        return settle(words, 0.0, sound_span(window.samples))

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens)
        return text


def _cut(owner: int, clip: Clip) -> Iterator[_Window]:
    """Yield consecutive windows of at most 30 s; an empty waveform is one empty window."""
    if clip.waveform.ndim != 1:
        raise ValueError(f"a waveform has one axis, not the shape {clip.waveform.shape}")
    for first in range(0, max(len(clip.waveform), 1), WINDOW_SAMPLES):
        samples = clip.waveform[first : first + WINDOW_SAMPLES]
        yield _Window(owner, first == 0, clip.recording_id, clip.start_seconds + first / SAMPLE_RATE, samples)


def _special_tokens(tokenizer: tokenizers.Tokenizer, languages: Sequence[str], task: str) -> _Tokens:
    def number(token: str) -> int:
        found: int | None = tokenizer.token_to_id(f"<|{token}|>")
        if found is None:
            raise ValueError(f"its tokenizer.json has no token <|{token}|>: it belongs to another model")
        return found

    return _Tokens(
        start=number("startoftranscript"),
        end=number("endoftext"),
        no_timestamps=number("notimestamps"),
        task=number(task),
        languages={code: number(code) for code in languages},
    )


def _compute_type(loading: Loading) -> str:
    return "int8" if loading.device.type == "cpu" else str(loading.dtype).removeprefix("torch.")
