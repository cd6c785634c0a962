"""Dot-product attention: softmax(q k^T / sqrt(d) + bias) v."""
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

BLOCK_LOGITS = 2 ** 22      # of all heads at once, where the bias is made block by block


def attention(q, k, v, bias=None, dropout=0.0, scale=None):
    """Scaled dot-product attention with an additive bias (Vaswani et al., 2017, eq. 1).

    Args:
        q (Tensor): (B, h, N, d) queries.
        k, v (Tensor): (B, h, K, d) keys and values.
        bias (Tensor | None): added to the logits after scaling, or True where a key may be seen; broadcasts to
            (B, h, N, K).
        dropout (float): probability of dropping an attention weight; 0 outside training.
        scale (float | None): of the logits; None for 1 / sqrt(d).

    Returns:
        Tensor: (B, h, N, d).
    """
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(q.dtype)
    if not q.numel():       # for which PyTorch gives the bias no gradient
        return (q @ k.mT + (0 if bias is None else bias)).softmax(-1) @ v
    # PyTorch falls back to a slow path that holds all weights unless the channels of a token lie side by side.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


def attention_in_blocks(q, k, v, bias, dropout=0.0):
    """Attention whose bias is made for a block of queries at a time, and made again in the backward pass.

    Args:
        q (Tensor): (B, h, N, d) queries.
        k, v (Tensor): (B, h, K, d) keys and values.
        bias (Callable[[slice], Tensor]): bias (B, h, n, K) of a slice of n queries.
        dropout (float): probability of dropping an attention weight.

    Returns:
        Tensor: (B, h, N, d).
    """
    def block(queries):
        return attention(q[:, :, queries], k, v, bias(queries), dropout)

    size = max(1, BLOCK_LOGITS // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    slices = [slice(start, start + size) for start in range(0, q.shape[2], size)]
    return torch.cat([checkpoint(block, queries, use_reentrant=False) for queries in slices], 2)
