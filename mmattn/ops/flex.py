"""Attention with a continuous relative position bias in one fused CUDA kernel, through PyTorch's FlexAttention.

The bias is a score function that reads the table bilinearly on the fly. Which devices, head sizes and PyTorch builds
compile it correctly is not written down anywhere, so the first use on a device tries it on a small problem against the
plain formula, gradients included, and a failure becomes a reason not to use it.
"""
from functools import cache

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

from mmattn.ops.separable import separable_attention

TOLERANCE = 1e-2        # of the trial, relative: kernels may multiply in TF32


def flex_refusals(q):
    """Reasons why FlexAttention cannot serve queries like `q` (B, h, H, W, d); none if it can."""
    if q.device.type != 'cuda':
        return [f'FlexAttention trains on CUDA only; q is on {q.device.type}']
    dims = q.shape[-1]
    if dims < 16 or dims & (dims - 1):
        return [f'FlexAttention needs head dims that are a power of two, at least 16; q has {dims}']
    failure = _trial(q.device, q.dtype, dims)
    return [failure] if failure else []


def flex_deformable_attention(q, k, v, points, table, rows, columns, compiled=True):
    """As `mmattn.ops.separable.separable_attention`; `compiled=False` runs it unfused, for tests."""
    groups, size = points.shape[1], q.shape[2:4]
    per_group = q.shape[1] // groups
    width, (height_t, width_t) = size[1], table.shape[1:]
    rows, columns = rows.float(), columns.float()
    y, x = (t.contiguous() for t in points.float().unbind(-1))                              # (B, G, K)
    # A ring of zeros stands for what lies outside. Every read has a copy of its own: PyTorch 2.13 differentiates a
    # captured tensor only if it is read once.
    corners = [F.pad(table.float(), (1, 1, 1, 1)).clone() for _ in range(4)]

    def bias(score, b, h, query, key):
        group = h // per_group
        read_y = (rows[query // width] - y[b, group, key]) * ((height_t - 1) / 4) + (height_t - 1) / 2
        read_x = (columns[query % width] - x[b, group, key]) * ((width_t - 1) / 4) + (width_t - 1) / 2
        top, left = torch.floor(read_y), torch.floor(read_x)
        down, right = read_y - top, read_x - left
        r0, r1 = ((top + i).clamp(0, height_t + 1).long() for i in (1, 2))
        c0, c1 = ((left + i).clamp(0, width_t + 1).long() for i in (1, 2))
        return score + ((1 - down) * ((1 - right) * corners[0][h, r0, c0] + right * corners[1][h, r0, c1])
                        + down * ((1 - right) * corners[2][h, r1, c0] + right * corners[3][h, r1, c1]))

    attend = _compiled() if compiled else flex_attention
    return attend(q.flatten(2, 3), k.to(q.dtype), v.to(q.dtype), score_mod=bias).unflatten(2, size)


@cache
def _compiled():
    return torch.compile(flex_attention, dynamic=True)


@cache
def _trial(device, dtype, dims):
    """Why a small problem fails or comes out wrong on this device; None if it comes out right."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 9, 15, dims), (1, 4, 130, dims), (1, 4, 130, dims), (1, 2, 130, 2), (4, 9, 11))
    inputs = [torch.randn(shape, generator=generator).clamp(-1.2, 1.2).to(device) for shape in shapes]
    inputs = [*(t.to(dtype) for t in inputs[:3]), *inputs[3:]]
    grid = [torch.linspace(-1, 1, n, device=device) for n in shapes[0][2:4]]
    results = []
    try:
        with torch.enable_grad():
            for attend in (flex_deformable_attention, separable_attention):
                leaves = [t.clone().requires_grad_() for t in inputs]
                out = attend(*leaves, *grid)
                results.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
    except Exception as error:      # whatever the compiler raises, the answer is to do without it
        return f'FlexAttention failed on {device}: {type(error).__name__}: {str(error).splitlines()[0]}'
    names = ('output', *(f'gradient of {name}' for name in ('q', 'k', 'v', 'points', 'table')))
    for name, flex, plain in zip(names, *results):
        error = ((flex - plain).float().norm() / plain.float().norm()).item()
        if not error <= TOLERANCE:
            return f'FlexAttention errs by {error:.1e} in the {name} on {device}'
    return None
