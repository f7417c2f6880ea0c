"""CTranslate2's Whisper, call by call: encode, tell languages, decode, align; scores and times in plain units.

Source: OpenNMT/CTranslate2 `src/models/whisper.cc` and `src/decoding.cc`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import ctranslate2
import numpy as np
import torch

from workers.models.whisper_features import HOP_LENGTH, whisper_log_mel

MAX_TOKENS: Final = 224  # of text in a window, half of Whisper's context, as in openai/whisper
SEED: Final = 0
POSITION_SECONDS: Final = 0.02  # what one position of the encoder's output stands for
POSITION_FRAMES: Final = 2  # of the log-mel spectrogram
OUT_OF_MEMORY: Final = "out of memory"

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Generated:
    """What was decoded from one window.

    Attributes:
        numbers: the tokens, without the end token.
        logprob: summed over the tokens, the end token included, nats; at temperature 1, whatever was sampled at.
        no_speech_probability: of the no-speech token right after the start token.
    """

    numbers: list[int]
    logprob: float
    no_speech_probability: float

    @property
    def truncated(self) -> bool:
        """Whether it was cut off at MAX_TOKENS."""
        return len(self.numbers) >= MAX_TOKENS


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """When each token begins in its window (seconds), the end token last; the probability of each but the last."""

    begins: list[float]
    probabilities: list[float]


class Ctranslate2Engine:
    """One checkpoint on one device; every call takes a batch of windows of at most 30 s."""

    def __init__(self, whisper: ctranslate2.models.Whisper) -> None:
        self._whisper = whisper
        self._device = torch.device(whisper.device)

    @classmethod
    def load(cls, folder: Path, device: torch.device, compute_type: str) -> Self:
        """Read the weights, on as many CPU threads as torch has; RuntimeError if they cannot be read."""
        ctranslate2.set_random_seed(SEED)  # reaches the engine's thread as long as that has drawn nothing
        whisper = ctranslate2.models.Whisper(
            str(folder),
            device=device.type,
            device_index=device.index or 0,
            compute_type=compute_type,
            intra_threads=torch.get_num_threads(),
        )
        return cls(whisper)

    def encode(self, waveforms: Sequence[np.ndarray]) -> ctranslate2.StorageView:
        """Return the encoder's output for 16-kHz waveforms, shape (windows, 1500, width)."""
        features = whisper_log_mel(waveforms, self._whisper.n_mels, self._device)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # CTranslate2 reads them from a stream of its own
        view = ctranslate2.StorageView.from_array(features if features.is_cuda else features.numpy())
        return _on_device(lambda: self._whisper.encode(view))

    def language_probabilities(self, audio: ctranslate2.StorageView, codes: Sequence[str]) -> list[np.ndarray]:
        """Return for each window the probability of every language, in the order of `codes`."""
        heard = [dict(pairs) for pairs in _on_device(lambda: self._whisper.detect_language(audio))]
        return [np.array([probabilities[f"<|{code}|>"] for code in codes]) for probabilities in heard]

    def generate(self, audio: ctranslate2.StorageView, prompts: list[list[int]], temperature: float) -> list[Generated]:
        """Decode each window after its prompt: the likeliest tokens at temperature 0, else sampled ones."""
        results = _on_device(
            lambda: self._whisper.generate(
                audio,
                prompts,
                beam_size=1,
                length_penalty=0,  # scores are divided by length ** length_penalty: they come as sums
                max_length=2 * MAX_TOKENS,  # half of it is for text
                return_scores=True,
                return_no_speech_prob=True,
                sampling_topk=0 if temperature else 1,  # 0 draws from all tokens, 1 takes the likeliest
                sampling_temperature=temperature or 1.0,
            )
        )
        return [Generated(one.sequences_ids[0], one.scores[0], one.no_speech_prob) for one in results]

    def align(
        self,
        audio: ctranslate2.StorageView,
        prompt: list[int],
        tokens: list[list[int]],
        samples: Sequence[int],
    ) -> list[TokenTimes]:
        """Say when the text `tokens` of each window, one at least, were spoken; windows have so many `samples`.

        `prompt` is what stood before the text, without the last token, which says that there are no timestamps.
        """
        frames = [max(POSITION_FRAMES, -(-count // HOP_LENGTH)) for count in samples]
        aligned = _on_device(lambda: self._whisper.align(audio, prompt, tokens, frames))
        return [TokenTimes(_begins(one.alignments), list(one.text_token_probs)) for one in aligned]


def some_windows(audio: ctranslate2.StorageView, rows: Sequence[int]) -> ctranslate2.StorageView:
    """Return some rows of an encoder's output."""
    if list(rows) == list(range(audio.shape[0])):
        return audio
    return ctranslate2.StorageView.from_array(_on_cpu(audio)[list(rows)])


def each_window(audio: ctranslate2.StorageView) -> list[ctranslate2.StorageView]:
    """Return the rows of an encoder's output one by one, copied once for all."""
    whole = _on_cpu(audio)
    return [ctranslate2.StorageView.from_array(whole[row : row + 1].copy()) for row in range(len(whole))]


def _on_cpu(audio: ctranslate2.StorageView) -> np.ndarray:
    """Return an encoder's output as an array; CTranslate2 takes what it is given of it back to its own device."""
    return np.asarray(audio.to_device(ctranslate2.Device.cpu).to(ctranslate2.DataType.float32))


def _begins(path: Sequence[tuple[int, int]]) -> list[float]:
    """Return when each token begins, from a path of (token, position) pairs."""
    steps = np.array(path)
    first = np.diff(steps[:, 0], prepend=-1).astype(bool)
    # Of a window with a single position the path says -1.
    begins: list[float] = (np.maximum(steps[first, 1], 0) * POSITION_SECONDS).tolist()
    return begins


def _on_device(call: Callable[[], _Result]) -> _Result:
    """Call; where CTranslate2 runs out of memory, say so as torch does, so that batches are halved."""
    try:
        return call()
    except RuntimeError as error:
        if OUT_OF_MEMORY in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise
