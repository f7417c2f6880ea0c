"""From windows to their texts on CTranslate2: greedily, again where the guards say so, packed; words on demand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import ctranslate2
import numpy as np
import tokenizers

from workers.models.ctranslate2_engine import Ctranslate2Engine, Generated, TokenTimes, each_window, some_windows
from workers.models.transcript import WindowText, Word, surest
from workers.models.whisper_grouping import group_tokens
from workers.models.whisper_guards import TEMPERATURES
from workers.models.whisper_packing import Layout, Share, Sound, packed_samples, shares, suspicions
from workers.models.whisper_timestamps import segments
from workers.models.whisper_tokens import Tokens
from workers.models.whisper_windows import Window
from workers.models.whisper_words import settle

LEAST_PROBABILITY: Final = 1e-10  # of a token; 0 has no logarithm


@dataclass(frozen=True, slots=True)
class Rules:
    """The recipe's settings that steer decoding, by the same names."""

    language: str | None
    identify: str
    words: bool
    guards: bool
    pack: bool = False


@dataclass(frozen=True, slots=True)
class _Language:
    code: str
    probability: float


@dataclass(frozen=True, slots=True)
class _Decoded:
    said: WindowText
    tokens: list[int]  # of the text


class Reader:
    """Writes the text of batches of windows that fit the device."""

    def __init__(
        self, engine: Ctranslate2Engine, tokenizer: tokenizers.Tokenizer, tokens: Tokens, rules: Rules
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._rules = rules
        self._codes = list(tokens.languages)

    def probabilities(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """Return for each window the probability of every language that the model knows."""
        return self._engine.language_probabilities(self._encode(windows), self._codes)

    def read(self, windows: Sequence[Window]) -> list[WindowText]:
        """Return the text of each window: where the guards are asked for, the first that passes, else the surest."""
        audio = self._encode(windows)
        languages = self._languages(audio, [window.language for window in windows])
        decoded = self._texts(audio, [window.sound for window in windows], languages)
        return self._with_words(audio, windows, decoded) if self._rules.words else [one.said for one in decoded]

    def read_packed(
        self, layouts: Sequence[Layout], sounds: Sequence[Sound], languages: Sequence[str | None]
    ) -> list[dict[int, WindowText]]:
        """Return, for every window, the texts of those of its clips that look right, by their positions in `sounds`.

        Unlike the transformers engine this one lets a window end before its last clip: that clip is decoded alone then.
        """
        packed = [packed_samples(layout, sounds) for layout in layouts]
        audio = self._engine.encode(packed)
        known = self._languages(audio, languages)
        prompts = [self._prompt(language, timestamps=True) for language in known]
        generated = self._engine.generate(audio, prompts, TEMPERATURES[0])
        columns = zip(layouts, each_window(audio), packed, generated, known, strict=True)
        return [
            self._clips(layout, sounds, window, len(samples), one, language)
            for layout, window, samples, one, language in columns
        ]

    def _clips(
        self,
        layout: Layout,
        sounds: Sequence[Sound],
        audio: ctranslate2.StorageView,
        samples: int,
        generated: Generated,
        language: _Language,
    ) -> dict[int, WindowText]:
        """Return the texts of one window's clips that look right.

        CTranslate2 gives one score for all tokens; aligning the text gives the probability of each, and its time.
        """
        parts = shares(layout, segments(generated.numbers, [0.0] * len(generated.numbers), self._tokens))
        told = [token for part in parts for token in part.tokens]
        if not told:
            return {}
        (times,) = self._engine.align(audio, self._prompt(language, timestamps=True), [told], [samples])
        texts = [self._text(part.tokens).strip() for part in parts]
        found, first = {}, 0
        for index, (part, text) in enumerate(zip(parts, texts, strict=True)):
            own = _between(times, first, len(part.tokens))
            first += len(part.tokens)
            sure = _logprob(own)
            if suspicions(_surer(part, sure), text, [*texts[:index], *texts[index + 1 :]]):
                continue
            said = self._window_text(generated, sounds[part.place.clip], language, text, TEMPERATURES[0])
            said = replace(said, logprob=sure, tokens=len(part.tokens), truncated=False)
            found[part.place.clip] = replace(said, words=self._packed_words(part, own, language, sounds))
        return found

    def _packed_words(
        self, part: Share, times: TokenTimes, language: _Language, sounds: Sequence[Sound]
    ) -> tuple[Word, ...] | None:
        if not self._rules.words:
            return None
        words = self._words(part.tokens, times, language.code)
        return settle([word.later(-part.place.start) for word in words], 0.0, sounds[part.place.clip].span)

    def _encode(self, windows: Sequence[Window]) -> ctranslate2.StorageView:
        return self._engine.encode([window.sound.samples for window in windows])

    def _languages(self, audio: ctranslate2.StorageView, told: Sequence[str | None]) -> list[_Language]:
        """Return each window's language, the likeliest where none is told, with its probability among all."""
        if not self._codes:
            return [_Language("en", 1.0)] * len(told)
        chosen = []
        for code, probabilities in zip(told, self._engine.language_probabilities(audio, self._codes), strict=True):
            best = self._codes.index(code) if code is not None else int(probabilities.argmax())
            chosen.append(_Language(self._codes[best], float(probabilities[best])))
        return chosen

    def _prompt(self, language: _Language, *, timestamps: bool) -> list[int]:
        """Return what stands before the text."""
        return [self._tokens.start, *self._tokens.after_start(language.code, timestamps)]

    def _texts(
        self, audio: ctranslate2.StorageView, sounds: Sequence[Sound], languages: Sequence[_Language]
    ) -> list[_Decoded]:
        """Take the likeliest tokens; decode windows that fail the guards again, at the next higher temperature."""
        tries = [[one] for one in self._generate(audio, sounds, languages, TEMPERATURES[0])]
        for temperature in TEMPERATURES[1:] if self._rules.guards else ():
            failed = [row for row, found in enumerate(tries) if found[-1].said.doubtful]
            if not failed:
                break
            of_failed = [sounds[row] for row in failed], [languages[row] for row in failed]
            again = self._generate(some_windows(audio, failed), *of_failed, temperature)
            for row, one in zip(failed, again, strict=True):
                tries[row].append(one)
        return [found[surest([one.said for one in found])] for found in tries]

    def _generate(
        self,
        audio: ctranslate2.StorageView,
        sounds: Sequence[Sound],
        languages: Sequence[_Language],
        temperature: float,
    ) -> list[_Decoded]:
        prompts = [self._prompt(language, timestamps=False) for language in languages]
        generated = self._engine.generate(audio, prompts, temperature)
        found = []
        for one, sound, language in zip(generated, sounds, languages, strict=True):
            tokens = [number for number in one.numbers if number < self._tokens.end]
            said = self._window_text(one, sound, language, self._text(tokens).strip(), temperature)
            found.append(_Decoded(said, tokens))
        return found

    def _window_text(
        self, generated: Generated, sound: Sound, language: _Language, text: str, temperature: float
    ) -> WindowText:
        return WindowText(
            language=language.code,
            language_probability=language.probability,
            text=text,
            logprob=generated.logprob,
            tokens=len(generated.numbers) + 1,
            no_speech_probability=generated.no_speech_probability,
            temperature=temperature,
            truncated=generated.truncated,
            level=sound.level,
        )

    def _with_words(
        self, audio: ctranslate2.StorageView, windows: Sequence[Window], decoded: Sequence[_Decoded]
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
            prompt = [self._tokens.start, *self._tokens.after_start(language, timestamps=True)]
            samples = [len(windows[row].sound.samples) for row in rows]
            tokens = [decoded[row].tokens for row in rows]
            aligned = self._engine.align(some_windows(audio, rows), prompt, tokens, samples)
            for row, times in zip(rows, aligned, strict=True):
                words = self._words(decoded[row].tokens, times, language)
                said[row] = replace(said[row], words=settle(words, 0.0, windows[row].sound.span))
        return said

    def _words(self, tokens: Sequence[int], times: TokenTimes, language: str) -> list[Word]:
        words, first = [], 0
        for text, count in group_tokens(self._tokenizer, tokens, language):
            after = first + count
            sure = float(np.mean(times.probabilities[first:after]))
            words.append(Word(text, times.begins[first], times.begins[after], sure))
            first = after
        return words

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens))
        return text


def _between(times: TokenTimes, first: int, count: int) -> TokenTimes:
    """Return the times of `count` tokens from the `first` on, and when the one behind them begins."""
    after = first + count
    return TokenTimes(times.begins[first : after + 1], times.probabilities[first:after])


def _logprob(times: TokenTimes) -> float:
    return sum(math.log(max(one, LEAST_PROBABILITY)) for one in times.probabilities)


def _surer(part: Share, logprob: float) -> Share:
    """Give a share its log-probability; all of it on its first segment, for it counts as a whole."""
    if not part.segments:
        return part
    first, *others = part.segments
    return replace(part, segments=(replace(first, logprob=logprob), *others))
