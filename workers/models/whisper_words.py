"""When each word was said: from the tokens' attention to the sound, by dynamic time warping.

Source: openai/whisper `timing.py`. Heads that are known to follow the sound (`alignment_heads` of the checkpoint) are
read in a second pass over the decoded tokens, all at once; so decoding itself keeps its fused attention.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from workers.models.transcript import Word
from workers.models.whisper_decoding import Decoder
from workers.models.whisper_grouping import group_tokens, merge_punctuation
from workers.models.whisper_warping import jump_positions

FRAME_SAMPLES: Final = 320  # one position of the encoder, 20 ms at 16 kHz
FRAME_SECONDS: Final = 0.02
MEDIAN_WIDTH: Final = 7  # positions
LONGEST_MEDIAN: Final = 0.7  # s; a median word is not taken to be longer
SENTENCE_ENDS: Final = frozenset(".。!！?？")  # noqa: RUF001

Pieces = Sequence[Sequence[int]]
"""The text tokens of a window, in pieces that share no word."""


class Aligner:
    """Finds the times of words that a decoder has written."""

    def __init__(self, decoder: Decoder, tokenizer: Any) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._heads: dict[int, list[int]] = {}
        for layer, head in decoder.model.generation_config.alignment_heads:
            self._heads.setdefault(layer, []).append(head)

    def words(
        self, audio: torch.Tensor, samples: Sequence[int], languages: Sequence[str], texts: Sequence[Pieces]
    ) -> list[list[list[Word]]]:
        """Return the words of every piece of every window, in seconds from the window's start.

        `audio` is the encoder's output, (rows, 1500, width); `samples` is how much of each window is not padding.
        Spaces around a word are kept; a window whose pieces are all empty has none.
        """
        frames = [max(1, count // FRAME_SAMPLES) for count in samples]
        flat = [[token for piece in pieces for token in piece] for pieces in texts]
        attention, probabilities = self._attend(audio, frames, languages, flat)
        rows = zip(languages, texts, attention, probabilities, strict=True)
        return [list(self._pieces(*row)) for row in rows]

    def _pieces(
        self, language: str, pieces: Pieces, attention: np.ndarray, probabilities: Sequence[float]
    ) -> Iterator[list[Word]]:
        """Yield the timed words of each piece; attention is (text tokens + 1, frames)."""
        times = jump_positions(-attention) * FRAME_SECONDS
        first = 0
        for piece in pieces:
            words = []
            for text, count in group_tokens(self._tokenizer, piece, language):
                sure = float(np.mean(probabilities[first : first + count]))
                words.append(Word(text, float(times[first]), float(times[first + count]), sure))
                first += count
            yield words

    def _attend(
        self, audio: torch.Tensor, frames: Sequence[int], languages: Sequence[str], texts: Sequence[Sequence[int]]
    ) -> tuple[list[np.ndarray], list[list[float]]]:
        """Feed the texts to the decoder: how each token attends to the frames, and how likely it was."""
        tokens = self._decoder.tokens
        prompts = [[tokens.start, *tokens.after_start(language, timestamps=False)] for language in languages]
        before = len(prompts[0])  # the last of them writes the first token of the text
        longest = before + 1 + max(map(len, texts))
        fed = torch.full((len(texts), longest), tokens.end)
        for row, prompt, text in zip(fed, prompts, texts, strict=True):
            row[: before + len(text)] = torch.tensor([*prompt, *text])
        hidden, weights = self._forward(fed.to(audio.device), audio, torch.tensor(frames, device=audio.device))
        attention, probabilities = [], []
        for row, text in enumerate(texts):
            heads = _sharpened(weights[row, :, : before + len(text) + 1, : frames[row]])
            attention.append(heads.mean(dim=0)[before - 1 : -1].cpu().numpy())
            probabilities.append(self._probabilities(hidden[row, before - 1 : before - 1 + len(text)], text))
        return attention, probabilities

    def _forward(
        self, fed: torch.Tensor, audio: torch.Tensor, frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states (rows, n, width), and the alignment heads' attention (rows, heads, n, 1500)."""
        beyond = torch.arange(audio.shape[1], device=audio.device) >= frames[:, None]
        seen: list[torch.Tensor] = []
        layers = self._decoder.model.model.decoder.layers

        def look(heads: list[int]) -> Any:
            def hook(attention: Any, args: Any, kwargs: dict[str, Any]) -> None:
                states = args[0] if args else kwargs["hidden_states"]
                seen.append(_attention(attention, states, audio, heads, beyond))

            return hook

        hooks = [
            layers[layer].encoder_attn.register_forward_pre_hook(look(heads), with_kwargs=True)
            for layer, heads in self._heads.items()
        ]
        try:
            output = self._decoder.model.model.decoder(
                input_ids=fed, encoder_hidden_states=audio, use_cache=False
            ).last_hidden_state
        finally:
            for one in hooks:
                one.remove()
        return output, torch.cat(seen, dim=1)

    def _probabilities(self, hidden: torch.Tensor, text: Sequence[int]) -> list[float]:
        """The probability of each token of a text among all that are text, from the states that wrote them."""
        weight = self._decoder.model.proj_out.weight[: self._decoder.tokens.end]
        sure = functional.linear(hidden, weight).float().softmax(-1)
        found: list[float] = sure[range(len(text)), list(text)].tolist()
        return found


def settle(words: Sequence[Word], since: float, heard: tuple[float, float]) -> tuple[Word, ...]:
    """Return words with punctuation merged and implausible lengths cut, inside the sound; spaces are stripped.

    The rules of openai/whisper `add_word_timestamps`: next to the end of a sentence, and after a pause since
    `since`, a word is at most twice as long as the median word. On top of them, no word lies outside `heard`,
    the seconds between the first and the last sound: the warping itself always begins at 0.
    """
    usual = _median_seconds(words)
    merged = merge_punctuation(_cut_at_sentences(words, 2 * usual))
    inside = [_within(word, *heard) for word in _cut_after_pause(merged, usual, since)]
    return tuple(replace(word, word=word.word.strip()) for word in inside)


def _median_seconds(words: Sequence[Word]) -> float:
    seconds = [word.end - word.start for word in words if word.end > word.start]
    return min(LONGEST_MEDIAN, median(seconds)) if seconds else 0.0


def _cut_at_sentences(words: Sequence[Word], longest: float) -> list[Word]:
    cut = list(words)
    for index in range(1, len(cut)):
        word = cut[index]
        if longest and word.end - word.start > longest:
            if word.word in SENTENCE_ENDS:
                cut[index] = replace(word, end=word.start + longest)
            elif cut[index - 1].word in SENTENCE_ENDS:
                cut[index] = replace(word, start=word.end - longest)
    return cut


def _cut_after_pause(words: list[Word], usual: float, since: float) -> list[Word]:
    """Cut the first words where they stretch over a pause."""
    longest = 2 * usual
    if not words or words[0].end - since <= 4 * usual:
        return words
    first, second = words[0], words[1] if len(words) > 1 else None
    if first.end - first.start <= longest and (second is None or second.end - first.start <= 2 * longest):
        return words
    if second is not None and second.end - second.start > longest:
        boundary = max(second.end / 2, second.end - longest)
        first, words = replace(first, end=boundary), [first, replace(second, start=boundary), *words[2:]]
    return [replace(first, start=max(0.0, first.end - longest)), *words[1:]]


def _within(word: Word, first: float, last: float) -> Word:
    return replace(word, start=min(max(word.start, first), last), end=min(max(word.end, first), last))


def _attention(
    attention: Any, states: torch.Tensor, audio: torch.Tensor, heads: list[int], beyond: torch.Tensor
) -> torch.Tensor:
    """How some heads of a cross-attention attend, (rows, heads, n, positions), to what is not `beyond` the sound."""
    shape = (len(states), -1, attention.num_heads, attention.head_dim)
    queries = (attention.q_proj(states) * attention.scaling).view(shape)[:, :, heads].transpose(1, 2)
    keys = attention.k_proj(audio).view(shape)[:, :, heads].transpose(1, 2)
    scores: torch.Tensor = (queries @ keys.transpose(2, 3)).float()
    return scores.masked_fill(beyond[:, None, None], float("-inf")).softmax(-1)


def _sharpened(weights: torch.Tensor) -> torch.Tensor:
    """Standardise over the tokens, then take running medians over the frames; weights are (heads, tokens, frames)."""
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    standard = torch.nan_to_num((weights - mean) / deviation, nan=0.0, posinf=0.0, neginf=0.0)
    side = MEDIAN_WIDTH // 2
    if standard.shape[-1] <= side:
        return standard
    padded: torch.Tensor = functional.pad(standard, (side, side, 0, 0), mode="reflect")
    medians: torch.Tensor = padded.unfold(-1, MEDIAN_WIDTH, 1).sort()[0][..., side]
    return medians
