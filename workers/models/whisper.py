"""Whisper transcription: greedy decoding in batches whose finished rows leave, with the official guards as flags.

Sources: openai/whisper `decoding.py` (prompt, no-speech probability, average log-probability) and `transcribe.py`
(thresholds). Every 30-s window is decoded on its own, without timestamps and without the text before it: that loses a
little context and cannot carry a hallucination from one window into the next.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoTokenizer, DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

from workers.models.model import Clip, Loading, ModelStage
from workers.models.whisper_features import SAMPLE_RATE, WINDOW_SAMPLES, whisper_log_mel

COMPRESSION_RATIO_LIMIT = 2.4  # text that zlib shrinks more than this repeats itself
LOGPROB_LIMIT = -1.0  # nats per token; below it the model guesses
NO_SPEECH_LIMIT = 0.6  # probability; above it, and below LOGPROB_LIMIT, the window is silence

_IMPOSSIBLE = float("-inf")  # the logit of a suppressed token


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in one waveform, and how far to trust it; nothing is deleted from the text.

    Of a waveform of several windows, `language` is that of the surest window, `avg_logprob` (nats per token, the end
    token included) is over all tokens, `no_speech_probability` is the lowest, `compression_ratio` is of the text of
    the most repetitive window. `flags`, sorted:

    - `low_confidence`, `repetitive`, `truncated`: a window is below LOGPROB_LIMIT, is above COMPRESSION_RATIO_LIMIT, or
      was cut off at `max_new_tokens`;
    - `no_speech`: every window is above NO_SPEECH_LIMIT and below LOGPROB_LIMIT.
    """

    language: str
    language_probability: float
    text: str
    avg_logprob: float
    compression_ratio: float
    no_speech_probability: float
    temperature: float
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """How to decode: `language` is a code such as "es", or None to let the model say; `batch_size` counts windows."""

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    batch_size: int = 16
    max_new_tokens: int = 224

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError(f"batch_size and max_new_tokens are at least 1, not {self}")


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The numbers that one vocabulary gives to the tokens that steer Whisper; `languages` is empty if English only."""

    start: int
    end: int
    no_timestamps: int
    no_speech: int
    task: int
    languages: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Window:
    """What was decoded from at most 30 s of sound."""

    language: str
    language_probability: float
    text: str
    logprob: float  # summed over the tokens
    tokens: int  # the end token included
    no_speech_probability: float
    truncated: bool

    @property
    def avg_logprob(self) -> float:
        return self.logprob / self.tokens

    @property
    def compression_ratio(self) -> float:
        return _compression_ratio(self.text)

    @property
    def silent(self) -> bool:
        return self.no_speech_probability > NO_SPEECH_LIMIT and self.avg_logprob < LOGPROB_LIMIT


class Whisper:
    """A Whisper model on one device, ready to transcribe; build it with `load`."""

    def __init__(
        self, model: WhisperForConditionalGeneration, tokenizer: Any, tokens: _Tokens, options: WhisperOptions
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._options = options
        rules = model.generation_config
        self._suppressed = self._biases(rules.suppress_tokens)
        self._suppressed_first = self._suppressed + self._biases(rules.begin_suppress_tokens)

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype, options: WhisperOptions) -> Self:
        """Read a transformers checkpoint folder: local safetensors only, no code from the folder is run.

        `dtype` is float16 or bfloat16 on CUDA and float32 on a CPU. Raises OSError if the folder lacks a file, and
        ValueError if the model cannot do what `options` ask: another language, translation by an English-only model,
        more tokens than its context holds.
        """
        model = WhisperForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, attn_implementation="sdpa"
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokens = _special_tokens(tokenizer.get_vocab(), model.generation_config, options)
        _refuse_impossible_options(options, tokens, model.config.max_target_positions)
        return cls(model.to(device).eval(), tokenizer, tokens, options)

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        """Transcribe waveforms of any length, in order; each is 1-D, mono, 16 kHz, finite float in [-1, 1].

        A waveform longer than 30 s is cut into consecutive 30-s windows, and their texts are joined by a space; an
        empty one is heard as silence. Raises ValueError for a waveform that is not 1-D.
        """
        windows = [(owner, window) for owner, wave in enumerate(waveforms) for window in _cut(wave)]
        # Windows of like length hold about as many tokens, so the rows of a batch end at about the same step.
        order = sorted(range(len(windows)), key=lambda position: -len(windows[position][1]))
        decoded: dict[int, _Window] = {}
        for first in range(0, len(order), self._options.batch_size):
            batch = order[first : first + self._options.batch_size]
            decoded.update(zip(batch, self._decode([windows[position][1] for position in batch]), strict=True))
        heard: list[list[_Window]] = [[] for _ in waveforms]
        for position, (owner, _) in enumerate(windows):
            heard[owner].append(decoded[position])
        return [_join(parts) for parts in heard]

    @torch.inference_mode()
    def _decode(self, windows: Sequence[np.ndarray]) -> list[_Window]:
        """Decode one batch of windows of at most 30 s."""
        features = whisper_log_mel(windows, self._model.config.num_mel_bins, self._model.device)
        audio = self._model.model.encoder(features.to(self._model.dtype)).last_hidden_state
        # The cache keeps the keys and values of `audio` from the first step on, so they are computed once a window.
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        start = torch.full((len(windows), 1), self._tokens.start, device=audio.device)
        heard = self._logits(self._advance(start, audio, cache))
        no_speech = heard.softmax(-1)[:, self._tokens.no_speech].tolist()
        languages, language_probabilities = self._languages(heard)
        hidden = self._advance(self._prompt(languages), audio, cache)
        texts, logprobs, counts = self._continue(hidden, audio, cache)
        limit = self._options.max_new_tokens
        columns = zip(languages, language_probabilities, texts, logprobs, counts, no_speech, strict=True)
        return [
            _Window(language, sure, text, logprob, count + 1, silence, count == limit)
            for language, sure, text, logprob, count, silence in columns
        ]

    def _continue(
        self, hidden: torch.Tensor, audio: torch.Tensor, cache: EncoderDecoderCache
    ) -> tuple[list[str], list[float], list[int]]:
        """Take the likeliest token until each row ends: its text, summed log-probability and number of tokens."""
        end, limit = self._tokens.end, self._options.max_new_tokens
        rows = torch.arange(len(audio), device=audio.device)  # which window each row still in the batch decodes
        chosen = torch.full((len(audio), limit), end, device=audio.device)
        logprobs = torch.zeros(len(audio), device=audio.device)
        for step in range(limit):
            logits = self._logits(hidden, self._suppressed if step else self._suppressed_first)
            best, token = logits.max(-1)
            logprobs[rows] += best - logits.logsumexp(-1)
            chosen[rows, step] = token
            kept = _rows_to_keep((token != end).tolist())
            if not kept or step + 1 == limit:
                break
            if len(kept) < len(rows):
                _keep_rows(cache, kept)
                rows, token = rows[kept], token[kept]
            hidden = self._advance(token[:, None], audio[: len(rows)], cache)
        counts = (chosen != end).sum(-1).tolist()
        texts = self._tokenizer.batch_decode(chosen.tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts], logprobs.tolist(), counts

    def _advance(self, tokens: torch.Tensor, audio: torch.Tensor, cache: EncoderDecoderCache) -> torch.Tensor:
        """Feed (rows, n) tokens behind those in the cache; return the hidden state after the last, (rows, width)."""
        output = self._model.model.decoder(
            input_ids=tokens, encoder_hidden_states=audio, past_key_values=cache, use_cache=True
        )
        hidden: torch.Tensor = output.last_hidden_state[:, -1]
        return hidden

    def _logits(self, hidden: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """(rows, width) to (rows, vocabulary) float32; suppression is the bias of the matrix product, hence free."""
        return functional.linear(hidden, self._model.proj_out.weight, bias).float()

    def _languages(self, logits: torch.Tensor) -> tuple[list[str], list[float]]:
        """The language of each row and its probability among all languages, from the logits after the start token."""
        codes = list(self._tokens.languages)
        if not codes:
            return ["en"] * len(logits), [1.0] * len(logits)
        probabilities = logits[:, list(self._tokens.languages.values())].softmax(-1)
        if self._options.language is not None:
            given = self._options.language
            return [given] * len(logits), probabilities[:, codes.index(given)].tolist()
        sure, best = probabilities.max(-1)
        return [codes[number] for number in best.tolist()], sure.tolist()

    def _prompt(self, languages: Sequence[str]) -> torch.Tensor:
        """The tokens between the start token and the text, (rows, 1) for an English-only model, else (rows, 3)."""
        tokens = self._tokens
        steering = [[tokens.languages[code], tokens.task] if tokens.languages else [] for code in languages]
        return torch.tensor([[*row, tokens.no_timestamps] for row in steering], device=self._model.device)

    def _biases(self, suppressed: Sequence[int] | None) -> torch.Tensor:
        """A vector over the vocabulary that makes some tokens impossible when it is added to the logits."""
        biases = torch.zeros(len(self._model.proj_out.weight), device=self._model.device, dtype=self._model.dtype)
        biases[list(suppressed or ())] = _IMPOSSIBLE
        return biases


def _special_tokens(vocabulary: dict[str, int], rules: Any, options: WhisperOptions) -> _Tokens:
    multilingual = getattr(rules, "is_multilingual", False)
    languages = rules.lang_to_id if multilingual else {}
    return _Tokens(
        start=vocabulary["<|startoftranscript|>"],
        end=vocabulary["<|endoftext|>"],
        no_timestamps=vocabulary["<|notimestamps|>"],
        # The hub's older vocabularies, and the packaged ones, call the same token by its first name.
        no_speech=vocabulary.get("<|nospeech|>") or vocabulary["<|nocaptions|>"],
        task=vocabulary[f"<|{options.task}|>"],
        languages={token.strip("<|>"): number for token, number in languages.items()},
    )


def _refuse_impossible_options(options: WhisperOptions, tokens: _Tokens, context: int) -> None:
    prompt = 4 if tokens.languages else 2
    if options.max_new_tokens > context - prompt:
        raise ValueError(f"max_new_tokens is {options.max_new_tokens}; this model has room for {context - prompt}")
    if options.language is not None and options.language not in (tokens.languages or ("en",)):
        known = ", ".join(sorted(tokens.languages)) or "en"
        raise ValueError(f"this model has no language {options.language!r}; it has {known}")
    if options.task == "translate" and not tokens.languages:
        raise ValueError("an English-only model cannot translate")


def _cut(waveform: np.ndarray) -> Iterator[np.ndarray]:
    """Yield consecutive windows of at most 30 s; an empty waveform is one empty window."""
    if waveform.ndim != 1:
        raise ValueError(f"a waveform has one axis, not the shape {waveform.shape}")
    for start in range(0, max(len(waveform), 1), WINDOW_SAMPLES):
        yield waveform[start : start + WINDOW_SAMPLES]


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


def _join(windows: Sequence[_Window]) -> Transcript:
    """Make one transcript of the consecutive windows of a waveform, by the rules that `Transcript` states."""
    surest = max(windows, key=lambda window: window.language_probability)
    return Transcript(
        language=surest.language,
        language_probability=surest.language_probability,
        text=" ".join(window.text for window in windows if window.text),
        avg_logprob=sum(window.logprob for window in windows) / sum(window.tokens for window in windows),
        compression_ratio=max(window.compression_ratio for window in windows),
        no_speech_probability=min(window.no_speech_probability for window in windows),
        temperature=0.0,
        flags=_flags(windows),
    )


def _flags(windows: Sequence[_Window]) -> tuple[str, ...]:
    found = {
        "low_confidence": any(window.avg_logprob < LOGPROB_LIMIT for window in windows),
        "no_speech": all(window.silent for window in windows),
        "repetitive": any(window.compression_ratio > COMPRESSION_RATIO_LIMIT for window in windows),
        "truncated": any(window.truncated for window in windows),
    }
    return tuple(flag for flag, raised in found.items() if raised)


def _compression_ratio(text: str) -> float:
    """Bytes before and after zlib, as openai/whisper has it: ordinary speech is below 2.4."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


class WhisperModel:
    """Whisper as a pool runs it."""

    sample_rate = SAMPLE_RATE

    def __init__(self, whisper: Whisper) -> None:
        self._whisper = whisper

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the checkpoint."""
        settings = loading.stages[0].settings
        options = WhisperOptions(settings["language"], settings["task"], loading.batch_size)
        return cls(Whisper.load(loading.folder, loading.device, loading.dtype, options))

    def run(self, clips: Sequence[Clip]) -> list[Transcript]:
        """Return one transcript per clip."""
        return self._whisper.transcribe([clip.waveform for clip in clips])

    def rows(self, result: Transcript, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the transcript."""
        return [
            {
                "language": result.language,
                "language_probability": result.language_probability,
                "text": result.text,
                "avg_logprob": result.avg_logprob,
                "compression_ratio": result.compression_ratio,
                "no_speech_probability": result.no_speech_probability,
                "temperature": result.temperature,
                "flags": list(result.flags),
            }
        ]
