"""Speech encoders with labels behind them: language, emotion, intent, keyword; tags, and embeddings of any layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from workers.models.model import Clip, Loading, ModelStage
from workers.models.speech import LayerEmbedding
from workers.models.speech_checkpoint import load_network
from workers.models.speech_encoder import SpeechEncoder
from workers.models.speech_heads import ClassifierHead
from workers.models.tagging import best_tags


@dataclass(frozen=True, slots=True)
class Heard:
    """What one pass gave of a clip: the row of its embedding, and scores (n_labels,); None where nobody wants it."""

    embedding: dict[str, Any] | None
    scores: NDArray[np.float32] | None


class AudioClassifier:
    """A *ForSequenceClassification of the wav2vec 2.0 family as a pool runs it: tags and embeddings from one pass."""

    def __init__(self, encoder: SpeechEncoder, embedding: LayerEmbedding | None, head: ClassifierHead | None) -> None:
        self.sample_rate = encoder.sample_rate
        self._encoder = encoder
        self._embedding = embedding
        self._head = head

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the checkpoint."""
        network = load_network(loading.folder, "classifier")
        encoder = SpeechEncoder.load(network.base_model, loading)
        wanted, tagged = loading.settings("embeddings"), loading.settings("tags") is not None
        return cls(
            encoder,
            None if wanted is None else LayerEmbedding(wanted, encoder),
            ClassifierHead(network, loading) if tagged else None,
        )

    def run(self, clips: Sequence[Clip]) -> list[Heard]:
        """Return what is wanted of each clip; a clip of several windows has the labels of all its frames."""
        readings = [part.reading for part in (self._embedding, self._head) if part is not None]
        found = self._encoder.encode([clip.waveform for clip in clips], readings)
        return [
            Heard(
                None if self._embedding is None else self._embedding.row(read[0]),
                None if self._head is None else self._head.scores(read[-1]),
            )
            for read in found
        ]

    def rows(self, result: Heard, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding, or the best labels."""
        if stage.table == "embeddings":
            return [] if result.embedding is None else [result.embedding]
        if self._head is None or result.scores is None:
            return []
        return best_tags(result.scores, self._head.labels, stage.settings["top_k"])
