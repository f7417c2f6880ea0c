"""WavLM's layers: attention with a gated bias by relative position, through torch's fused attention.

transformers computes it with `multi_head_attention_forward`, which keeps the attention weights of all heads, and
repeats the bias for each clip. Source: transformers 5.17 modeling_wavlm.WavLMAttention.
"""

from typing import Any

import torch
from torch.nn import functional


def position_bias(attention: Any, length: int) -> torch.Tensor:
    """Return the bias of the first layer's attention by relative position, shape (heads, length, length).

    It is constant along diagonals: one number for each of the 2 length - 1 distances, not for each pair.
    """
    distances = torch.arange(1 - length, length)
    buckets = attention._relative_positions_bucket(distances)
    by_distance: torch.Tensor = attention.rel_attn_embed(buckets.to(attention.rel_attn_embed.weight.device))
    return by_distance.T.unfold(1, length, 1).flip(1)


def layer_output(layer: Any, hidden: torch.Tensor, *, bias: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return what a layer makes of hidden states (n, frames, dim); frames that are not `valid` are not attended to."""
    if type(layer).__name__.endswith("StableLayerNorm"):
        hidden = hidden + attend(layer.attention, layer.layer_norm(hidden), bias, valid)
        hidden = hidden + layer.feed_forward(layer.final_layer_norm(hidden))
        return hidden
    hidden = layer.layer_norm(hidden + attend(layer.attention, hidden, bias, valid))
    hidden = layer.final_layer_norm(hidden + layer.feed_forward(hidden))
    return hidden


def attend(attention: Any, hidden: torch.Tensor, bias: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return self-attention (n, frames, dim) whose bias each query gates for itself."""

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)

    projected: torch.Tensor = attention.gru_rel_pos_linear(heads(hidden))
    gates = projected.view(*projected.shape[:3], 2, 4).sum(dim=4).sigmoid()
    gate = gates[..., :1] * (gates[..., 1:] * attention.gru_rel_pos_const - 1.0) + 2.0
    scores = (gate * bias).masked_fill_(~valid[:, None, None], float("-inf"))
    queries, keys, values = (heads(of(hidden)) for of in (attention.q_proj, attention.k_proj, attention.v_proj))
    attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=scores)
    found: torch.Tensor = attention.out_proj(attended.transpose(1, 2).flatten(2))
    return found
