"""What stands behind a speech encoder: labels of a clip, or a speaker's vector, as transformers' heads compute them.

A head reads each window on the device as far as frames are summed up, and does its last layer on the CPU in float32,
once a clip. Sources: transformers 5.17 Wav2Vec2ForSequenceClassification and Wav2Vec2ForXVector, which the other
encoders share.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers.models.frame_pooling import FramePooling, joined_moments
from workers.models.model import Loading
from workers.models.speech_encoder import Reading
from workers.models.speech_settings import Mix
from workers.models.speech_windows import FrameGrid


class ClassifierHead:
    """Scores of labels from the mean over a clip's frames.

    Scores are independent of each other (sigmoid) where the checkpoint's problem_type is multi_label_classification,
    and sum to 1 (softmax) otherwise.

    Attributes:
        labels: in the order of the scores.
        reading: what the head reads off a pass.
    """

    def __init__(self, network: Any, loading: Loading) -> None:
        """Take the head of a *ForSequenceClassification to the device; it reads windows there."""
        config = network.config
        self.labels = [config.id2label[number] for number in range(config.num_labels)]
        self._independent = config.problem_type == "multi_label_classification"
        self._projector = network.projector.to(loading.device, loading.dtype)
        self._dtype = loading.dtype
        self._classifier = network.classifier
        self._mean = FramePooling("mean")
        self.reading = Reading(_head_mix(network), self._read)

    def _read(self, states: torch.Tensor, counts: torch.Tensor) -> Sequence[torch.Tensor]:
        return self._mean.read(self._projector(states.to(self._dtype)), counts)

    @torch.inference_mode()
    def scores(self, windows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return scores (n_labels,) in [0, 1] of a clip from what was read of its windows."""
        logits: torch.Tensor = self._classifier(torch.from_numpy(self._mean.join(windows)))
        scores: NDArray[np.float32] = (logits.sigmoid() if self._independent else logits.softmax(dim=0)).numpy()
        return scores


class SpeakerHead:
    """A speaker's vector (x-vector) from mean and standard deviation over a clip's frames.

    The vector is transformers' `embeddings`: not of unit length, so compare by cosine.

    Attributes:
        shortest: samples that it needs; make shorter clips longer.
        reading: what the head reads off a pass.
    """

    def __init__(self, network: Any, loading: Loading, grid: FrameGrid) -> None:
        """Take the head of a *ForXVector to the device, behind an encoder whose frames lie on `grid`."""
        self._projector = network.projector.to(loading.device, loading.dtype)
        self._layers = network.tdnn.to(loading.device, loading.dtype)
        self._reach = sum((layer.kernel_size - 1) * layer.dilation for layer in self._layers)
        self._dtype = loading.dtype
        self._last = network.feature_extractor
        self._moments = FramePooling("mean_std")
        self.shortest = grid.samples(self._reach + 2)  # a standard deviation needs two frames
        self.reading = Reading(_head_mix(network), self._read)

    def _read(self, states: torch.Tensor, counts: torch.Tensor) -> Sequence[torch.Tensor]:
        hidden = self._projector(states.to(self._dtype))
        for layer in self._layers:
            hidden = layer(hidden)
        return self._moments.read(hidden, counts - self._reach)

    @torch.inference_mode()
    def vector(self, windows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the vector (xvector_output_dim,) of a clip from what was read of its windows."""
        mean, variance = joined_moments(windows, ddof=1)
        pooled = np.concatenate([mean, np.sqrt(variance)]).astype(np.float32)
        vector: NDArray[np.float32] = self._last(torch.from_numpy(pooled)).numpy()
        return vector


def _head_mix(network: Any) -> Mix:
    """Return which hidden states a head was trained on: the last, or all by learned weights."""
    if not network.config.use_weighted_layer_sum:
        return None
    weights = network.layer_weights.detach().softmax(dim=0).tolist()
    return dict(enumerate(weights))
