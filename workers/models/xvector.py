"""Speaker vectors of speech encoders with an x-vector head: who speaks, not what is said."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from workers.models.model import Clip, Loading, ModelStage
from workers.models.pooling import pooled_row
from workers.models.speech_checkpoint import load_network
from workers.models.speech_encoder import SpeechEncoder
from workers.models.speech_heads import SpeakerHead


class SpeakerModel:
    """A *ForXVector of the wav2vec 2.0 family as a pool runs it.

    A clip too short for the head (0.33 s in the usual shape) is repeated until it is long enough; silence is repeated
    where there is nothing. Vectors are not of unit length.
    """

    def __init__(self, encoder: SpeechEncoder, head: SpeakerHead) -> None:
        self.sample_rate = encoder.sample_rate
        self._encoder = encoder
        self._head = head

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the checkpoint.

        Raises:
            ValueError: half a window of `max_window_seconds` is too short for the head.
        """
        network = load_network(loading.folder, "xvector")
        encoder = SpeechEncoder.load(network.base_model, loading)
        head = SpeakerHead(network, loading, encoder.grid)
        # A clip just above one window is cut into two halves, of which each must give the head something.
        if encoder.window_samples < 2 * head.shortest:
            need = 2 * head.shortest / encoder.sample_rate
            raise ValueError(f"max_window_seconds is too short for its x-vector head, which needs {need:.1f}")
        return cls(encoder, head)

    def run(self, clips: Sequence[Clip]) -> list[NDArray[np.float32]]:
        """Return one vector (xvector_output_dim,) per clip."""
        found = self._encoder.encode([self._long_enough(clip.waveform) for clip in clips], [self._head.reading])
        return [self._head.vector(windows) for (windows,) in found]

    def rows(self, result: NDArray[np.float32], stage: ModelStage) -> list[dict[str, Any]]:
        """Return the vector."""
        return [pooled_row(result, "mean_std", "xvector")]

    def _long_enough(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        if waveform.ndim != 1 or len(waveform) >= self._head.shortest:
            return waveform
        return np.resize(waveform if len(waveform) else np.zeros(1, np.float32), self._head.shortest)
