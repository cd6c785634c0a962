"""Dot-product attention: softmax(q k^T / sqrt(d) + bias) v."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmattn.ops.dispatch import are_symbols, is_traced

PLAIN = torch.float32, torch.float64


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0,
              scale: float | None = None) -> Tensor:
    """Scaled dot-product attention with an additive bias (Vaswani et al., 2017, eq. 1).

    Args:
        q: (B, h, N, d) queries.
        k, v: (B, h, K, d) keys and values.
        bias: added to the logits after scaling, or True where a key may be seen; broadcasts to (B, h, N, K).
        dropout: probability of dropping an attention weight; 0 outside training.
        scale: of the logits; None for 1 / sqrt(d).

    Returns:
        (B, h, N, d).
    """
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(q.dtype)
    if not q.numel():       # for which PyTorch gives the bias no gradient
        return (q @ k.mT + (0 if bias is None else bias)).softmax(-1) @ v
    if bias is not None and bias.requires_grad and q.device.type == 'cpu' and q.dtype in PLAIN and not is_traced():
        # PyTorch has no kernel there that gives a bias its gradient; its slow path also looks for rows without a key.
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return F.dropout(((q * scale) @ k.mT + bias).softmax(-1), dropout) @ v
    # PyTorch falls back to a slow path that holds all weights unless the channels of a token lie side by side.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
    # What ONNX has for it lays heads out otherwise, and a view of a size that is a symbol would no longer be one.
    return out.contiguous() if are_symbols(q.shape) else out


def attention_in_blocks(q: Tensor, k: Tensor, v: Tensor, bias: Callable[[slice], Tensor], dropout: float = 0.0, *,
                        logits: int) -> Tensor:
    """Attention whose bias is made for a block of queries at a time, and made again in the backward pass where there
    are several.

    Args:
        q: (B, h, N, d) queries.
        k, v: (B, h, K, d) keys and values.
        bias: gives the bias (B, h, n, K) of a slice of n queries.
        dropout: probability of dropping an attention weight.
        logits: of a block, of all heads.

    Returns:
        (B, h, N, d).
    """
    def block(queries: slice) -> Tensor:
        return attention(q[:, :, queries], k, v, bias(queries), dropout)

    if are_symbols(q.shape):
        return block(slice(None))
    size = max(1, logits // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    if size >= q.shape[2]:
        return block(slice(None))
    slices = [slice(start, start + size) for start in range(0, q.shape[2], size)]
    return torch.cat([checkpoint(block, queries, use_reentrant=False) for queries in slices], 2)
