"""Attention with a continuous relative position bias in one fused CUDA kernel, through PyTorch's FlexAttention.

The bias is a score function that reads the table bilinearly on the fly. Which devices, head sizes and PyTorch builds
compile it correctly is not written down anywhere, so the first use on a device tries it on a small problem against the
plain formula, gradients included, and a failure becomes a reason not to use it.
"""
import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from mmattn.ops.autocast import without_autocast
from mmattn.ops.dispatch import is_traced
from mmattn.ops.separable import separable_attention

TOLERANCE = 1e-2        # of the trial, relative: kernels may multiply in TF32
KINDS = 64              # of problems that are compiled: map and table sizes may change, others compile again
BLOCK = 2 ** 24         # numbers at a time where the separable form stands in


def flex_refusals(q: Tensor) -> list[str]:
    """Reasons why FlexAttention cannot serve queries like `q` (B, h, H, W, d); none if it can."""
    if q.device.type != 'cuda':
        return [f'FlexAttention trains on CUDA only; q is on {q.device.type}']
    if is_traced():
        return ['FlexAttention is compiled by itself, which cannot be traced']
    dims = q.shape[-1]
    if dims < 16 or dims & (dims - 1):
        return [f'FlexAttention needs head dims that are a power of two, at least 16; q has {dims}']
    failure = _trial(q.device, q.dtype, dims)
    return [failure] if failure else []


def flex_deformable_attention(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, rows: Tensor,
                              columns: Tensor) -> Tensor:
    """As `mmattn.ops.separable.separable_attention`, which stands in, with a warning, for more kinds of problems than
    `KINDS`: PyTorch would run them unfused."""
    groups, size = points.shape[1], q.shape[2:4]
    per_group = q.shape[1] // groups
    width, (height_t, width_t) = size[1], table.shape[1:]
    heights, sides = rows.float(), columns.float()
    y, x = (t.contiguous() for t in points.float().unbind(-1))                              # (B, G, K)
    # A ring of zeros stands for what lies outside. Every read has a copy of its own: PyTorch 2.13 differentiates a
    # captured tensor only if it is read once.
    corners = [F.pad(table.float(), (1, 1, 1, 1)).clone() for _ in range(4)]

    def bias(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        group = h // per_group
        read_y = (heights[query // width] - y[b, group, key]) * ((height_t - 1) / 4) + (height_t - 1) / 2
        read_x = (sides[query % width] - x[b, group, key]) * ((width_t - 1) / 4) + (width_t - 1) / 2
        top, left = torch.floor(read_y), torch.floor(read_x)
        down, right = read_y - top, read_x - left
        r0, r1 = ((top + i).clamp(0, height_t + 1).long() for i in (1, 2))
        c0, c1 = ((left + i).clamp(0, width_t + 1).long() for i in (1, 2))
        return score + ((1 - down) * ((1 - right) * corners[0][h, r0, c0] + right * corners[1][h, r0, c1])
                        + down * ((1 - right) * corners[2][h, r1, c0] + right * corners[3][h, r1, c1]))

    flat = (t.to(q.dtype) for t in (q.flatten(2, 3), k, v))
    # As in plain attention, the channels of a token lie side by side, however the caller keeps them.
    flat = (t if t.stride(-1) == 1 else t.contiguous() for t in flat)
    try:
        with torch._dynamo.config.patch(recompile_limit=KINDS):
            return _compiled()(*flat, score_mod=bias).unflatten(2, size)
    except torch._dynamo.exc.FailOnRecompileLimitHit:
        warnings.warn(f'FlexAttention was compiled for {KINDS} kinds of problems, and is not for another: queries '
                      f'{tuple(q.shape)}, {q.dtype}; the separable form runs instead', stacklevel=2)
        return separable_attention(q, k, v, points, table, rows, columns, block=BLOCK)


@cache
def _compiled() -> Callable[..., Tensor]:
    # The full graph, so that a kind of problem over the limit is an error, and not run unfused.
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


@cache
def _trial(device: torch.device, dtype: torch.dtype, dims: int) -> str | None:
    """Why a small problem fails or comes out wrong on this device; None if it comes out right."""
    # What surrounds the first use stays outside: in inference mode nothing has gradients.
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(device):
        inputs, grid = _small_problem(device, dtype, dims)
        wanted = _with_gradients(partial(separable_attention, block=BLOCK), inputs, grid)
        names = ('output', *(f'gradient of {name}' for name in ('q', 'k', 'v', 'points', 'table')))
        for layout, arrange in (('', torch.clone), (', channels first', _channels_first)):
            try:
                results = _with_gradients(flex_deformable_attention, [*map(arrange, inputs[:3]), *inputs[3:]], grid)
            except Exception as error:      # whatever the compiler raises, the answer is to do without it
                reason = str(error).splitlines() or ['']
                return f'FlexAttention failed on {device}{layout}: {type(error).__name__}: {reason[0]}'
            for name, result, right in zip(names, results, wanted):
                difference = ((result - right).float().norm() / right.float().norm()).item()
                if not difference <= TOLERANCE:
                    return f'FlexAttention errs by {difference:.1e} in the {name} on {device}{layout}'
    return None


def _small_problem(device: torch.device, dtype: torch.dtype, dims: int) -> tuple[list[Tensor], list[Tensor]]:
    """q, k, v, points and table; rows and columns."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 9, 15, dims), (1, 4, 130, dims), (1, 4, 130, dims), (1, 2, 130, 2), (4, 9, 11))
    inputs = [torch.randn(shape, generator=generator).clamp(-1.2, 1.2).to(device) for shape in shapes]
    return [*(t.to(dtype) for t in inputs[:3]), *inputs[3:]], [torch.linspace(-1, 1, n, device=device) for n in (9, 15)]


def _channels_first(t: Tensor) -> Tensor:
    """(B, h, ..., d) with the strides that layers give: the channels of a token lie a map apart."""
    return t.movedim(-1, 2).contiguous().movedim(2, -1)


def _with_gradients(attend: Callable[..., Tensor], inputs: list[Tensor], grid: list[Tensor]) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = attend(*leaves, *grid)
    return [out, *torch.autograd.grad(out.float().square().sum(), leaves)]
