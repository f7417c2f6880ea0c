"""The encoders of the wav2vec 2.0 family on padded batches, each clip as if it were alone.

transformers' own forward lets padding into the valid frames: through the group norm over time, the positional
convolutions, the conformer's convolutions. Here its modules are run one by one with masks between them, so that a
batched result is that of the class in transformers on the clip alone, without padding and without a mask. Sources:
transformers 5.17 modeling_wav2vec2, _hubert, _wavlm, _data2vec_audio, _unispeech, _unispeech_sat, _wav2vec2_conformer.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from workers.devices import send
from workers.models import wavlm_attention
from workers.models.speech_settings import Mix
from workers.models.speech_windows import FrameGrid


class MaskedEncoder:
    """An encoder (`Wav2Vec2Model` and its kin) that gives padded clips the hidden states they have alone.

    Attributes:
        grid: where frames lie in samples.
        n_layers: transformer layers; hidden state 0 is what the first is given, hidden state i what layer i gives.
        dim: size of a hidden state.
    """

    def __init__(self, network: Any) -> None:
        """Take an encoder in evaluation mode; its positional weights are multiplied out for good."""
        config = network.config
        self.grid = FrameGrid.of(config.conv_kernel, config.conv_stride)
        self.n_layers: int = config.num_hidden_layers
        self.dim: int = config.hidden_size
        self._network = network
        self._encoder = network.encoder
        self._conformer: bool = config.model_type == "wav2vec2-conformer"
        self._wavlm: bool = config.model_type == "wavlm"
        self._norm_comes_last = self._conformer or type(network.encoder).__name__.endswith("StableLayerNorm")
        _multiply_weight_norm(network)

    @torch.inference_mode()
    def __call__(self, samples: torch.Tensor, lengths: Sequence[int], mixes: Sequence[Mix]) -> list[torch.Tensor]:
        """Return hidden states, shape (n, frames, dim), for each of `mixes`; no layer above the highest is run.

        `samples` are (n, width) on the network's device, zeros behind `lengths`, each length at least `grid.receptive`.
        Row i has `grid.frames(lengths[i])` valid frames; what is behind them is to be ignored. A mix of None is
        `last_hidden_state`: with the final layer norm where it comes last (do_stable_layer_norm and conformers), which
        no numbered hidden state has. That is transformers' `hidden_states` of 5.x; in 4.x the last had the norm.
        """
        device = samples.device
        features = self._features(samples, lengths)
        projected = self._network.feature_projection(features.transpose(1, 2))
        hidden = projected[0] if isinstance(projected, tuple) else projected
        valid = _valid([self.grid.frames(length) for length in lengths], hidden.shape[1], device)
        states = self._states(_zero(hidden, valid), valid)
        return self._mixed(states, mixes)

    def _features(self, samples: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Return the convolutions' output (n, channels, frames): they pad nothing, so that only norms need masks."""
        features = samples[:, None]
        for layer in self._network.feature_extractor.conv_layers:
            if not isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                features = layer(features)
                continue
            grid = FrameGrid.of(layer.conv.kernel_size, layer.conv.stride)  # the first layer: it hears the samples
            features = layer.conv(features)
            valid = _valid([grid.frames(length) for length in lengths], features.shape[2], samples.device)
            features = layer.activation(_channel_norm(layer.layer_norm, features, valid))
        return features

    def _states(self, hidden: torch.Tensor, valid: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield hidden states 0 to n_layers, then the last hidden state, as far as they are asked for."""
        hidden = self._before_layers(hidden, valid)
        yield hidden
        step = self._step(hidden, valid)
        for layer in self._encoder.layers:
            hidden = step(layer, hidden)
            yield hidden
        yield self._encoder.layer_norm(hidden) if self._norm_comes_last else hidden

    def _before_layers(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        if self._conformer:
            return hidden
        hidden = hidden + _positions(self._encoder.pos_conv_embed, hidden, valid)
        return hidden if self._norm_comes_last else self._encoder.layer_norm(hidden)

    def _step(self, hidden: torch.Tensor, valid: torch.Tensor) -> Callable[[Any, torch.Tensor], torch.Tensor]:
        """Return what a layer is called with, beside itself and its input, which is the same for all layers."""
        if self._wavlm:
            bias = wavlm_attention.position_bias(self._encoder.layers[0].attention, hidden.shape[1])
            return partial(wavlm_attention.layer_output, bias=bias, valid=valid)
        keys = valid[:, None, None, :]
        if self._conformer:
            embed = self._encoder.embed_positions
            return partial(_conformer_layer, keys=keys, positions=None if embed is None else embed(hidden), valid=valid)
        return partial(_transformer_layer, keys=keys)

    def _mixed(self, states: Iterator[torch.Tensor], mixes: Sequence[Mix]) -> list[torch.Tensor]:
        last = self.n_layers + 1
        wanted = [{last: 1.0} if mix is None else mix for mix in mixes]
        highest = max(max(weights) for weights in wanted)
        sums: list[torch.Tensor | None] = [None] * len(wanted)
        for number, state in zip(range(highest + 1), states, strict=False):
            for place, weights in enumerate(wanted):
                if number in weights:
                    sums[place] = _plus(sums[place], state, weights[number])
        return [one for one in sums if one is not None]


def _plus(total: torch.Tensor | None, state: torch.Tensor, weight: float) -> torch.Tensor:
    """Add to a weighted sum in float32; one state at weight 1 stays as it is."""
    weighted = state if weight == 1.0 else state.float() * weight
    return weighted if total is None else total.float() + weighted


def _valid(counts: Sequence[int], width: int, device: torch.device) -> torch.Tensor:
    """Return which frames are none of padding, bool, shape (n, width)."""
    return torch.arange(width, device=device) < send(torch.tensor(counts), device)[:, None]


def _zero(hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return hidden states (n, frames, dim) with zeros where padding is."""
    return hidden.masked_fill(~valid[:, :, None], 0.0)


def _channel_norm(norm: nn.GroupNorm, features: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return a group norm of one channel a group, shape (n, channels, frames), with statistics of valid frames.

    Statistics are float32, in two passes. The features are overwritten: they are the largest tensor there is, 6.5 MB
    a second of sound in float32.
    """
    padding = ~valid[:, None]
    count = valid.sum(dim=1)[:, None, None]
    centred = features.float().masked_fill_(padding, 0.0)
    centred.sub_(centred.sum(dim=2, keepdim=True) / count).masked_fill_(padding, 0.0)
    deviation = torch.linalg.vector_norm(centred, dim=2, keepdim=True)
    scale = torch.rsqrt(deviation.square() / count + norm.eps) * norm.weight.float()[:, None]
    return centred.mul_(scale).add_(norm.bias.float()[:, None]).to(features.dtype)


def _positions(embedding: Any, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return positional embeddings (n, frames, dim) of hidden states whose padding is zero."""
    if hasattr(embedding, "layers"):  # data2vec: several convolutions, and each leaves something in the padding
        keep = valid[:, None]
        hidden = hidden.transpose(1, 2)
        for layer in embedding.layers:
            hidden = layer(hidden.masked_fill(~keep, 0.0))
        return hidden.transpose(1, 2)
    if getattr(embedding, "batch_norm", None) is None:
        found: torch.Tensor = embedding(hidden)
        return found
    normed = _zero(embedding.batch_norm(hidden.transpose(1, 2)).transpose(1, 2), valid)
    positions: torch.Tensor = embedding.activation(embedding.padding(embedding.conv(normed.transpose(1, 2))))
    return positions.transpose(1, 2)


def _transformer_layer(layer: Any, hidden: torch.Tensor, *, keys: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = layer(hidden, attention_mask=keys)
    return found


def _conformer_layer(
    layer: Any, hidden: torch.Tensor, *, keys: torch.Tensor, positions: torch.Tensor | None, valid: torch.Tensor
) -> torch.Tensor:
    hidden = hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden))
    heard = layer.self_attn_layer_norm(hidden)
    attended, _ = layer.self_attn(heard, attention_mask=keys, relative_position_embeddings=positions)
    hidden = hidden + attended
    hidden = hidden + _conformer_convolution(layer.conv_module, hidden, valid)
    hidden = hidden + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden))
    found: torch.Tensor = layer.final_layer_norm(hidden)
    return found


def _conformer_convolution(module: Any, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    gated = module.glu(module.pointwise_conv1(module.layer_norm(hidden).transpose(1, 2)))
    mixed = module.batch_norm(module.depthwise_conv(gated.masked_fill(~valid[:, None], 0.0)))
    found: torch.Tensor = module.pointwise_conv2(module.activation(mixed))
    return found.transpose(1, 2)


def _multiply_weight_norm(network: nn.Module) -> None:
    """Multiply weight norms out once, where the modules would do it in every call."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
