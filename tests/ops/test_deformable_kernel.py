import pytest
import torch


def launches(dtype, dims, size=(50, 80), keys=(50, 80)):
    """What a training step of a layer of DAT launches, in channels-first memory."""
    from mmattn.ops.kernels.deformable import deformable_attention

    def leaf(*shape, dtype=getattr(torch, dtype)):
        return torch.empty(shape, dtype=dtype, device='meta')

    q = leaf(2, 12, dims, *size).movedim(2, 4).requires_grad_()
    k, v = (leaf(2, 12, dims, *keys).movedim(2, 4).requires_grad_() for _ in range(2))
    points, table = (leaf(*shape, dtype=torch.float32).requires_grad_() for shape in ((2, 3, *keys, 2), (12, 27, 27)))
    out = deformable_attention(q, k, v, points, table, 'dat')
    torch.autograd.grad(out, (q, k, v, points, table), torch.empty_like(out))
