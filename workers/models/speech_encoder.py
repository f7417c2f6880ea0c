"""Waveforms to hidden states of a speech encoder: normalised, cut into windows, batched by length.

How it is used, by embeddings as by a head of one's own:

    network = load_network(loading.folder, "ctc")
    encoder = SpeechEncoder.load(network.base_model, loading)
    head = network.lm_head.to(loading.device, loading.dtype)
    reading = Reading(None, lambda states, counts: valid_frames(head(states), counts))
    for (windows,) in encoder.encode(waveforms, [reading]):
        logits = np.concatenate(windows)  # (encoder.grid.frames(len(waveform)), n_labels)

What else is in a call does not change what comes of a waveform.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from workers.devices import send
from workers.models.batching import Budget, run_batched
from workers.models.masked_encoder import MaskedEncoder
from workers.models.model import Loading
from workers.models.speech_settings import Mix, read_preparation, shared_window_seconds
from workers.models.speech_windows import FrameGrid, Window, windows

VARIANCE_OFFSET = 1e-7  # added before the root, so that silence can be normalised; Wav2Vec2FeatureExtractor


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read off a pass through the encoder.

    Attributes:
        mix: of which hidden states (workers.models.speech_settings.layer_mix); None is the last hidden state.
        read: gets them, shape (n, frames, dim), on the device and in the network's precision (float32 where several
            are mixed), and how many frames of each row are valid, int64, shape (n,), on the device: the first of it,
            while what is behind them is to be ignored. Returns one tensor a row; keep it small or on the CPU, since all
            wait on the device till the call ends.
    """

    mix: Mix
    read: Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]


class SpeechEncoder:
    """An encoder of the wav2vec 2.0 family on one device.

    A waveform shorter than one frame is heard with zeros behind it. One longer than `max_window_seconds` goes through
    in several windows (workers.models.speech_windows), which do not attend to each other; together they give each frame
    once.

    Attributes:
        sample_rate: Hz.
        grid: how samples become frames.
        hop_seconds: from frame to frame.
        n_layers: of the transformer.
        dim: size of a hidden state.
        window_samples: what goes through at once, at most.
    """

    def __init__(
        self,
        encoder: MaskedEncoder,
        device: torch.device,
        dtype: torch.dtype,
        sample_rate: int,
        normalises: bool,
        window_samples: int,
        budget: Budget,
    ) -> None:
        self.sample_rate = sample_rate
        self.grid: FrameGrid = encoder.grid
        self.hop_seconds = encoder.grid.hop / sample_rate
        self.n_layers = encoder.n_layers
        self.dim = encoder.dim
        self._encoder = encoder
        self._device = device
        self._dtype = dtype
        self._normalises = normalises
        self.window_samples = window_samples
        self._budget = budget

    @classmethod
    def load(cls, network: Any, loading: Loading) -> Self:
        """Take an encoder, `.base_model` of what load_network returns, to the device and precision of `loading`.

        Raises:
            ValueError: the checkpoint does not say how samples are prepared; the options are none of its own; or the
                stages, which share a pass, ask for different windows.
        """
        prepared = read_preparation(loading.folder)
        longest = shared_window_seconds(loading.stages)
        rate = int(prepared["sampling_rate"])
        encoder = MaskedEncoder(network)
        network.to(loading.device, loading.dtype)
        return cls(
            encoder,
            loading.device,
            loading.dtype,
            rate,
            bool(prepared["do_normalize"]),
            int(longest * rate),
            Budget(loading.batch_seconds * rate),
        )

    @torch.inference_mode()
    def encode(
        self, waveforms: Sequence[NDArray[np.float32]], readings: Sequence[Reading]
    ) -> list[tuple[list[NDArray[Any]], ...]]:
        """Return for each waveform (n_samples,), for each reading, what it gave of the waveform's windows, in order.

        Samples are float32 at `sample_rate`; none at all is heard as silence.

        Raises:
            ValueError: a waveform is not one-dimensional.
        """
        for position, waveform in enumerate(waveforms):
            if waveform.ndim != 1:
                raise ValueError(f"waveform {position} has shape {waveform.shape}; mix it down to (n_samples,)")
        levels = [self._level(waveform) for waveform in waveforms]
        cut = [one for owner, heard in enumerate(waveforms) for one in self._windows(owner, len(heard))]

        def compute(chosen: list[int], width: int) -> list[tuple[torch.Tensor, ...]]:
            return self._batch([cut[one] for one in chosen], waveforms, levels, width, readings)

        lengths = [window.samples for window in cut]
        stepped = self._device.type == "cuda"  # a CPU gains nothing by meeting the same shapes again
        read = run_batched(lengths, self._budget, compute, self.grid.receptive, stepped=stepped)
        found: list[tuple[list[NDArray[Any]], ...]] = [tuple([] for _ in readings) for _ in waveforms]
        for place in range(len(readings)):
            for window, result in zip(cut, _on_host([row[place] for row in read]), strict=True):
                found[window.owner][place].append(result)
        return found

    def _windows(self, owner: int, samples: int) -> list[Window]:
        return list(windows(owner, samples, self.grid, self.window_samples))

    def _level(self, waveform: NDArray[np.float32]) -> tuple[float, float]:
        """Return what is taken off a waveform's samples, and what they are then multiplied with."""
        if not self._normalises or not len(waveform):
            return 0.0, 1.0
        variance, mean = torch.var_mean(torch.from_numpy(waveform), correction=0)
        return float(mean), float((variance + VARIANCE_OFFSET).rsqrt())

    def _batch(
        self,
        cut: Sequence[Window],
        waveforms: Sequence[NDArray[np.float32]],
        levels: Sequence[tuple[float, float]],
        width: int,
        readings: Sequence[Reading],
    ) -> list[tuple[torch.Tensor, ...]]:
        samples = self._samples(cut, waveforms, levels, width)
        states = self._encoder(samples, [window.samples for window in cut], [reading.mix for reading in readings])
        counts = send(torch.tensor([window.frames for window in cut]), self._device)
        context = [window.context for window in cut]
        read = [one.read(_without_context(state, context), counts) for one, state in zip(readings, states, strict=True)]
        return list(zip(*read, strict=True))

    def _samples(
        self,
        cut: Sequence[Window],
        waveforms: Sequence[NDArray[np.float32]],
        levels: Sequence[tuple[float, float]],
        width: int,
    ) -> torch.Tensor:
        """Return the windows' samples (n, width), normalised as their whole clips are, zeros behind them."""
        rows = np.zeros((len(cut), width), np.float32)
        parts = [waveforms[one.owner][one.start : one.start + one.samples] for one in cut]
        for row, part in zip(rows, parts, strict=True):
            row[: len(part)] = part
        samples = send(torch.from_numpy(rows), self._device)
        if self._normalises:
            ends = send(torch.tensor([len(part) for part in parts]), self._device)[:, None]
            level = send(torch.tensor([levels[one.owner] for one in cut]), self._device)
            samples.sub_(level[:, :1]).mul_(level[:, 1:])
            samples.masked_fill_(torch.arange(width, device=self._device) >= ends, 0.0)
        return samples.to(self._dtype)


def valid_frames(states: torch.Tensor, counts: torch.Tensor) -> list[torch.Tensor]:
    """Return the valid frames (n_frames, dim) of each row, float32 on the CPU; a `read` for who wants them all."""
    return [row[:count].clone() for row, count in zip(states.float().cpu(), counts.tolist(), strict=True)]


def _without_context(states: torch.Tensor, context: Sequence[int]) -> torch.Tensor:
    """Return states (n, frames, dim) whose first frame is the first behind each row's context."""
    if not any(context):
        return states
    return torch.stack([row.roll(-skip, dims=0) for row, skip in zip(states, context, strict=True)])


def _on_host(tensors: Sequence[torch.Tensor]) -> list[NDArray[Any]]:
    """Return tensors as arrays, in one copy where they are of one shape."""
    if len({(tensor.shape, tensor.device) for tensor in tensors}) == 1 and tensors[0].device.type != "cpu":
        return list(torch.stack(list(tensors)).cpu().numpy())
    return [tensor.cpu().numpy() for tensor in tensors]
