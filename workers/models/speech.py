"""Embeddings of speech encoders: wav2vec 2.0, its conformer, HuBERT, WavLM, data2vec, UniSpeech."""

from collections.abc import Sequence
from typing import Any, Self

from numpy.typing import NDArray

from workers.models.frame_pooling import FramePooling
from workers.models.model import Clip, Loading, ModelStage
from workers.models.pooling import pooled_row
from workers.models.speech_checkpoint import load_network
from workers.models.speech_encoder import Reading, SpeechEncoder
from workers.models.speech_settings import layer_mix, mix_name


class LayerEmbedding:
    """What a section of `embeddings` asks of a speech encoder: which hidden states, and how they are pooled.

    Attributes:
        reading: what it reads off a pass.
    """

    def __init__(self, settings: dict[str, Any], encoder: SpeechEncoder) -> None:
        self._pooling = FramePooling(settings["pooling"])
        self._hop_seconds = encoder.hop_seconds
        mix = layer_mix(settings["layer"], encoder.n_layers)
        self._layer = mix_name(mix)
        self.reading = Reading(mix, self._pooling.read)

    def row(self, windows: Sequence[NDArray[Any]]) -> dict[str, Any]:
        """Return the row of a clip from what was read of its windows."""
        return pooled_row(self._pooling.join(windows), self._pooling.pooling, self._layer, self._hop_seconds)


class SpeechModel:
    """A speech encoder as a pool runs it.

    `layer` numbers hidden states: 0 is what the transformer is given, i what its layer i gives, negative ones count
    from the end. Without it the last hidden state is taken, which in models with do_stable_layer_norm is that of the
    last layer behind a final layer norm (transformers' `last_hidden_state`, not its `hidden_states[-1]`). Layers above
    the highest that is wanted are not computed.
    """

    def __init__(self, encoder: SpeechEncoder, embedding: LayerEmbedding) -> None:
        self.sample_rate = encoder.sample_rate
        self._encoder = encoder
        self._embedding = embedding

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the checkpoint; whatever stands behind its encoder is left where it is."""
        network = load_network(loading.folder, "speech")
        encoder = SpeechEncoder.load(network, loading)
        return cls(encoder, LayerEmbedding(loading.settings("embeddings") or {}, encoder))

    def run(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """Return one row per clip."""
        found = self._encoder.encode([clip.waveform for clip in clips], [self._embedding.reading])
        return [self._embedding.row(windows) for (windows,) in found]

    def rows(self, result: dict[str, Any], stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding."""
        return [result]
