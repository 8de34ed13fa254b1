"""The rule for F.multi_head_attention_forward, taken apart into the linear maps that hold its parameters."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from traklens.engine.gradients.linear import linear
from traklens.engine.gradients.tracker import NoRuleError, Tracker


def multi_head_attention(
    t: Tracker,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, None]:
    """query [L, B, E], key and value [S, B, E'] -> ([L, B, E], None)."""
    rare = (bias_k, bias_v, static_k, static_v)
    if query.ndim != 3 or any(x is not None for x in rare) or add_zero_attn or need_weights:
        raise NoRuleError("only batched attention without weights, added keys or static projections")
    if training and dropout_p > 0:
        raise NoRuleError("dropout")
    if any(t.is_tracked(x) for x in (query, key, value, attn_mask, key_padding_mask)):
        raise NoRuleError("input made of parameters")
    length, batch, width = query.shape
    source = key.shape[0]
    same = query is key and key is value
    # Batch first from here on: that is how nn.MultiheadAttention holds its memory, and what bmm wants.
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    if same and in_proj_weight is not None:
        packed = linear(t, query, in_proj_weight, in_proj_bias, batch_dim=0)
        q, k, v = packed.view(batch, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        if use_separate_proj_weight:
            weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
        else:
            weights = t.handle(torch.chunk, (in_proj_weight, 3), {})
        biases = (None,) * 3 if in_proj_bias is None else t.handle(torch.chunk, (in_proj_bias, 3), {})
        q, k, v = (
            linear(t, x, w, b, batch_dim=0).unflatten(-1, (num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
    hint = is_causal and key_padding_mask is None
    mask = None if hint else _mask(attn_mask, key_padding_mask, q, source)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=hint)
    attended = attended.transpose(1, 2).reshape(batch, length, width)
    output = linear(t, attended, out_proj_weight, out_proj_bias, batch_dim=0)
    return output.transpose(0, 1), None


def _mask(attention: Tensor | None, padding: Tensor | None, q: Tensor, source: int) -> Tensor | None:
    """The sum of both masks, as added to the logits [B, H, L, S]; in a mask of booleans True means hidden."""

    def additive(mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(q.dtype)
        return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, float("-inf"))

    batch, heads, length, _ = q.shape
    parts: list[Tensor] = []
    if attention is not None:
        full = additive(attention)
        parts.append(full if full.ndim == 2 else full.view(batch, heads, length, source))
    if padding is not None:
        parts.append(additive(padding).view(batch, 1, 1, source))
    return functools.reduce(torch.add, parts) if parts else None
