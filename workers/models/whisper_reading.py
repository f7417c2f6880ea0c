"""From windows to their texts: greedily, again where the guards say so, packed; with the times of words on demand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from workers.models.transcript import WindowText, Word, surest
from workers.models.whisper_decoding import Decoded, Decoder, Sampling, draws
from workers.models.whisper_guards import TEMPERATURES
from workers.models.whisper_packing import Layout, Share, Sound, packed_samples, shares, suspicions
from workers.models.whisper_timestamps import segments
from workers.models.whisper_words import Aligner, Pieces, settle


class Reader:
    """Writes the text of batches that fit the device; `words` says whether their times are found too."""

    def __init__(self, decoder: Decoder, tokenizer: Any, words: bool) -> None:
        self.decoder = decoder
        self._tokenizer = tokenizer
        self._aligner = Aligner(decoder, tokenizer) if words else None

    def read(self, sounds: Sequence[Sound], languages: Sequence[str | None], again: bool) -> list[WindowText]:
        """Return the text of each window, decoded greedily; words only of those that need no other try, if `again`."""
        audio = self.decoder.encode([sound.samples for sound in sounds])
        decoded = self.decoder.decode(audio, languages)
        texts = [self._text(one, sound, 0.0) for one, sound in zip(decoded, sounds, strict=True)]
        final = [row for row, text in enumerate(texts) if not (again and text.doubtful)]
        return self._with_words(texts, final, audio, decoded, sounds)

    def read_warmer(self, sounds: Sequence[Sound], languages: Sequence[str]) -> list[WindowText]:
        """Return the text of windows that failed greedily: of the first temperature that passes, else the surest."""
        audio = self.decoder.encode([sound.samples for sound in sounds])
        left = list(range(len(sounds)))
        tries: list[list[tuple[Decoded, WindowText]]] = [[] for _ in sounds]
        for attempt, temperature in enumerate((*TEMPERATURES[1:], 0.0), start=1):  # greedy at last, to compare
            heard = [sounds[row] for row in left]
            drawn = draws([sound.samples for sound in heard], attempt, self.decoder.max_new_tokens)
            sampling = Sampling(temperature, drawn.to(audio.device)) if temperature else None
            decoded = self.decoder.decode(audio[left], [languages[row] for row in left], sampling)
            for row, one, sound in zip(left, decoded, heard, strict=True):
                tries[row].append((one, self._text(one, sound, temperature)))
            left = [row for row in left if tries[row][-1][1].doubtful]
            if not left:
                break
        chosen = [found[surest([text for _, text in found])] for found in tries]
        texts, tokens = [text for _, text in chosen], [one for one, _ in chosen]
        return self._with_words(texts, range(len(sounds)), audio, tokens, sounds)

    def read_packed(
        self, layouts: Sequence[Layout], sounds: Sequence[Sound], languages: Sequence[str | None]
    ) -> list[dict[int, WindowText]]:
        """Return, for every window, the texts of those of its clips that look right, by their positions in `sounds`."""
        windows = [packed_samples(layout, sounds) for layout in layouts]
        audio = self.decoder.encode(windows)
        decoded = self.decoder.decode(audio, languages, last_sounds=[layout[-1].middle for layout in layouts])
        shared = [
            shares(layout, segments(one.tokens, one.logprobs, self.decoder.tokens))
            for layout, one in zip(layouts, decoded, strict=True)
        ]
        words = self._packed_words(audio, [len(window) for window in windows], decoded, shared)
        rows = zip(decoded, shared, words, strict=True)
        return [self._trusted(one, parts, timed, sounds) for one, parts, timed in rows]

    def _trusted(
        self, decoded: Decoded, parts: Sequence[Share], timed: Sequence[Sequence[Word]] | None, sounds: Sequence[Sound]
    ) -> dict[int, WindowText]:
        texts = [self._tokenizer.decode(part.tokens).strip() for part in parts]
        found = {}
        for index, (part, text) in enumerate(zip(parts, texts, strict=True)):
            if suspicions(part, text, [*texts[:index], *texts[index + 1 :]]):
                continue
            sound = sounds[part.place.clip]
            sure = sum(segment.logprob for segment in part.segments)
            one = _window_text(decoded, sound, text, 0.0)
            one = replace(one, logprob=sure, tokens=len(part.tokens), truncated=False)
            if timed is not None:
                own = [word.later(-part.place.start) for word in timed[index]]
                one = replace(one, words=settle(own, 0.0, sound.span))
            found[part.place.clip] = one
        return found

    def _packed_words(
        self, audio: torch.Tensor, lengths: Sequence[int], decoded: Sequence[Decoded], shared: Sequence[list[Share]]
    ) -> Sequence[list[list[Word]] | None]:
        if self._aligner is None:
            return [None] * len(decoded)
        texts = [[part.tokens for part in parts] for parts in shared]
        return self._aligner.words(audio, lengths, [one.language for one in decoded], texts)

    def _with_words(
        self,
        texts: list[WindowText],
        final: Sequence[int],
        audio: torch.Tensor,
        decoded: Sequence[Decoded],
        sounds: Sequence[Sound],
    ) -> list[WindowText]:
        """Give words to the rows of a batch whose text is final."""
        if self._aligner is None:
            return texts
        # A network that is lost writes timestamps unasked; they are in no word.
        spoken = [[token for token in one.tokens if token < self.decoder.tokens.end] for one in decoded]
        told = [row for row in final if spoken[row]]
        pieces: list[Pieces] = [[spoken[row]] for row in told]
        languages, lengths = [texts[row].language for row in told], [len(sounds[row].samples) for row in told]
        timed = self._aligner.words(audio[told], lengths, languages, pieces) if told else []
        words = {row: settle(one[0], 0.0, sounds[row].span) for row, one in zip(told, timed, strict=True)}
        return [replace(text, words=words.get(row, ())) for row, text in enumerate(texts)]

    def _text(self, decoded: Decoded, sound: Sound, temperature: float) -> WindowText:
        text = self._tokenizer.decode(decoded.tokens, skip_special_tokens=True).strip()
        return _window_text(decoded, sound, text, temperature)


def _window_text(decoded: Decoded, sound: Sound, text: str, temperature: float) -> WindowText:
    return WindowText(
        language=decoded.language,
        language_probability=decoded.language_probability,
        text=text,
        logprob=sum(decoded.logprobs),
        tokens=len(decoded.tokens) + 1,
        no_speech_probability=decoded.no_speech_probability,
        temperature=temperature,
        truncated=decoded.truncated,
        level=sound.level,
    )
