"""Whisper's decoding loop: batches of windows, whose finished rows leave.

Source: openai/whisper `decoding.py` (prompt, no-speech probability, sum of log-probabilities). The prompt holds no
text of the window before: that loses a little context and cannot carry a hallucination from window to window.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from transformers import DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

from workers.models.whisper_features import whisper_log_mel
from workers.models.whisper_timestamps import TimestampRules
from workers.models.whisper_tokens import Tokens

_IMPOSSIBLE = float("-inf")  # the logit of a suppressed token


@dataclass(frozen=True, slots=True)
class Decoded:
    """The tokens of one window.

    Attributes:
        language: the one in its prompt.
        language_probability: of it, among all languages; 1 where the model knows one.
        tokens: timestamps included, the end token not.
        logprobs: of each token, and of the end token where it came, nats.
        no_speech_probability: the model's guess that nobody speaks.
        truncated: whether the end token never came.
    """

    language: str
    language_probability: float
    tokens: list[int]
    logprobs: list[float]
    no_speech_probability: float
    truncated: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn: at which temperature, and a number in [0, 1) for every row and step, (rows, steps)."""

    temperature: float
    draws: torch.Tensor

    def choose(self, logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        """Return a token a row, (rows,), from logits (rows, vocabulary)."""
        heaped = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        drawn = self.draws[rows, step, None] * heaped[:, -1:]
        return torch.searchsorted(heaped, drawn, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def draws(windows: Sequence[np.ndarray], attempt: int, steps: int) -> torch.Tensor:
    """Return numbers in [0, 1), (windows, steps) float64, that hang on each window's samples and the attempt alone."""
    seeds = [hashlib.sha256(np.ascontiguousarray(window, np.float32).tobytes()).digest() for window in windows]
    rows = [np.random.default_rng([attempt, *np.frombuffer(seed, np.uint32)]).random(steps) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


class Decoder:
    """A Whisper network with the rules of its vocabulary."""

    def __init__(self, model: WhisperForConditionalGeneration, tokens: Tokens, max_new_tokens: int) -> None:
        self.model = model
        self.tokens = tokens
        self.max_new_tokens = max_new_tokens
        rules = model.generation_config
        self._suppressed = self._biases(rules.suppress_tokens)
        self._suppressed_first = self._suppressed + self._biases(rules.begin_suppress_tokens)

    def encode(self, windows: Sequence[np.ndarray]) -> torch.Tensor:
        """Run the encoder on windows of at most 30 s: (windows, 1500, width)."""
        features = whisper_log_mel(windows, self.model.config.num_mel_bins, self.model.device)
        audio: torch.Tensor = self.model.model.encoder(features.to(self.model.dtype)).last_hidden_state
        return audio

    def languages(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the probability of each language in each row, (rows, languages), in the order of `tokens`."""
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        return self._language_probabilities(self._logits(self._advance(self._starts(audio), audio, cache)[:, -1]))

    def decode(
        self,
        audio: torch.Tensor,
        languages: Sequence[str | None],
        sampling: Sampling | None = None,
        last_sounds: Sequence[float] | None = None,
    ) -> list[Decoded]:
        """Decode rows of the encoder's output: greedily, or by `sampling`; a language that is None is identified.

        With `last_sounds`, seconds for each row, timestamps are written too, and no row ends before one as late.
        """
        timestamps = last_sounds is not None
        # The cache keeps the keys and values of `audio` from the first step on: they are computed once a window.
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        spoken = list(languages) if self.tokens.languages else ["en"] * len(audio)
        starts = self._starts(audio)
        if None in spoken:
            heard = self._logits(self._advance(starts, audio, cache)[:, -1])
            spoken = self._filled_in(spoken, heard)
            hidden = self._advance(self._prompts(spoken, timestamps), audio, cache)
        else:
            prompts = torch.cat([starts, self._prompts(spoken, timestamps)], dim=1)
            hidden = self._advance(prompts, audio, cache)
            heard = self._logits(hidden[:, 0])  # a token sees none behind it: as if the start token stood alone
        silence = heard.softmax(-1)[:, self.tokens.no_speech].tolist()
        sure = self._sureness(spoken, heard)
        rules = None if last_sounds is None else TimestampRules(self.tokens, last_sounds, audio.device)
        texts = self._continue(hidden[:, -1], audio, cache, sampling, rules)
        return [
            Decoded(str(language), probability, tokens, logprobs, no_speech, len(logprobs) == len(tokens))
            for language, probability, (tokens, logprobs), no_speech in zip(spoken, sure, texts, silence, strict=True)
        ]

    def _continue(
        self,
        hidden: torch.Tensor,
        audio: torch.Tensor,
        cache: EncoderDecoderCache,
        sampling: Sampling | None,
        rules: TimestampRules | None,
    ) -> list[tuple[list[int], list[float]]]:
        """Choose tokens until each row ends: its tokens, and their log-probabilities with that of the end token."""
        end, limit = self.tokens.end, self.max_new_tokens
        rows = torch.arange(len(audio), device=audio.device)  # which window each row still in the batch decodes
        chosen = torch.full((len(audio), limit), end, device=audio.device)
        logprobs = torch.zeros((len(audio), limit), device=audio.device)
        for step in range(limit):
            logits = self._logits(hidden, self._suppressed if step else self._suppressed_first)
            if rules is not None:
                rules.apply(logits)
            token = logits.argmax(-1) if sampling is None else sampling.choose(logits, rows, step)
            logprobs[rows, step] = logits.gather(1, token[:, None]).squeeze(1) - logits.logsumexp(-1)
            chosen[rows, step] = token
            kept = _rows_to_keep((token != end).tolist())
            if not kept or step + 1 == limit:
                break
            if rules is not None:
                rules.follow(token)
            if len(kept) < len(rows):
                _keep_rows(cache, kept)
                rows, token = rows[kept], token[kept]
                if rules is not None:
                    rules.keep(kept)
            hidden = self._advance(token[:, None], audio[: len(rows)], cache)[:, -1]
        counts = (chosen != end).sum(-1).tolist()
        pairs = zip(chosen.tolist(), logprobs.tolist(), counts, strict=True)
        return [(tokens[:count], sure[: count + 1]) for tokens, sure, count in pairs]

    def _advance(self, tokens: torch.Tensor, audio: torch.Tensor, cache: EncoderDecoderCache) -> torch.Tensor:
        """Feed (rows, n) tokens behind those in the cache; return their hidden states, (rows, n, width)."""
        output = self.model.model.decoder(
            input_ids=tokens, encoder_hidden_states=audio, past_key_values=cache, use_cache=True
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _logits(self, hidden: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """(rows, width) to (rows, vocabulary) float32; suppression is the bias of the matrix product, hence free."""
        return functional.linear(hidden, self.model.proj_out.weight, bias).float()

    def _language_probabilities(self, heard: torch.Tensor) -> torch.Tensor:
        return heard[:, list(self.tokens.languages.values())].softmax(-1)

    def _filled_in(self, languages: Sequence[str | None], heard: torch.Tensor) -> list[str | None]:
        """Put the likeliest language where none is known, from the logits behind the start token."""
        codes = list(self.tokens.languages)
        best = self._language_probabilities(heard).argmax(-1).tolist()
        return [language or codes[number] for language, number in zip(languages, best, strict=True)]

    def _sureness(self, languages: Sequence[str | None], heard: torch.Tensor) -> list[float]:
        """The probability of each row's language among all; 1 where there is but one."""
        if not self.tokens.languages:
            return [1.0] * len(heard)
        codes = list(self.tokens.languages)
        probabilities = self._language_probabilities(heard).tolist()
        return [row[codes.index(str(language))] for row, language in zip(probabilities, languages, strict=True)]

    def _starts(self, audio: torch.Tensor) -> torch.Tensor:
        return torch.full((len(audio), 1), self.tokens.start, device=audio.device)

    def _prompts(self, languages: Sequence[str | None], timestamps: bool) -> torch.Tensor:
        rows = [self.tokens.after_start(str(language), timestamps) for language in languages]
        return torch.tensor(rows, dtype=torch.long, device=self.model.device)

    def _biases(self, suppressed: Sequence[int] | None) -> torch.Tensor:
        """A vector over the vocabulary that makes some tokens impossible when it is added to the logits."""
        biases = torch.zeros(len(self.model.proj_out.weight), device=self.model.device, dtype=self.model.dtype)
        biases[list(suppressed or ())] = _IMPOSSIBLE
        return biases


def _rows_to_keep(alive: Sequence[bool]) -> list[int]:
    """The living rows, in an order that moves as few as possible: those behind the last place fill the gaps."""
    count = sum(alive)
    spare = (row for row in range(count, len(alive)) if alive[row])
    return [row if alive[row] else next(spare) for row in range(count)]


def _keep_rows(cache: EncoderDecoderCache, kept: Sequence[int]) -> None:
    """Shrink the batch of a cache in place: only moved rows are copied, for those of the encoder's keys are large."""
    moves = [(row, source) for row, source in enumerate(kept) if row != source]
    to, source = [row for row, _ in moves], [row for _, row in moves]
    for layer in (*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers):
        for states in (layer.keys, layer.values):
            if moves:
                states[to] = states[source]
        layer.keys, layer.values = layer.keys[: len(kept)], layer.values[: len(kept)]
