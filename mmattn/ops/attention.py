"""Dot-product attention: softmax(q k^T / sqrt(d) + bias) v."""
import torch.nn.functional as F


def attention(q, k, v, bias=None, dropout=0.0):
    """Scaled dot-product attention with an additive bias (Vaswani et al., 2017, eq. 1).

    Args:
        q (Tensor): (B, h, N, d) queries.
        k, v (Tensor): (B, h, K, d) keys and values.
        bias (Tensor | None): added to the logits after scaling; broadcasts to (B, h, N, K).
        dropout (float): probability of dropping an attention weight; 0 outside training.

    Returns:
        Tensor: (B, h, N, d).
    """
    if bias is not None:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
