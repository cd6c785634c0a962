"""What the kernels share.

All count logits in powers of two: exp(x) = exp2(x LOG2E), which a GPU has an instruction for. Products are accumulated
in float32. A head of DIM channels is read as the next power of two, BLOCK_D, that a matrix product can have.
"""
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmattn.ops import fused
from mmattn.ops.precision import products_allow_tf32

LOG2E = 1.4426950408889634
TO_BASE_2 = tl.constexpr(LOG2E)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b; acc may be None."""
    if PRECISION == 'raised':       # Triton's interpreter multiplies bfloat16 wrongly
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    EXACT: tl.constexpr = 'ieee' if PRECISION == 'raised' else PRECISION
    if acc is None:
        product = tl.dot(a, b, input_precision=EXACT)
    else:
        product = tl.dot(a, b, acc, input_precision=EXACT)
    return product


def precision(dtype: torch.dtype, exact: bool = False) -> str:
    """How products of float32 are made: exactly enough, by three products of TF32, unless PyTorch is told that one
    will do; or, if `exact`, of float32 itself."""
    if fused.is_interpreted():
        return 'raised'
    if dtype == torch.float32 and not exact:
        return 'tf32' if products_allow_tf32() else 'tf32x3'
    return 'ieee'


def block_of(dims: int) -> int:
    """BLOCK_D for DIM channels."""
    return max(16, triton.next_power_of_2(dims))


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **options: Any) -> None:
    """Run `kernel` on the current stream of `device`; nothing where the grid is empty."""
    if all(grid):
        with torch.cuda.device(device) if device.type == 'cuda' else nullcontext():
            kernel[grid](*args, **options)


def index_type(*tensors: Tensor) -> Any:
    """What offsets are counted in: 32 bits where those of all tensors fit."""
    last = max(sum((side - 1) * stride for side, stride in zip(t.shape, t.stride())) for t in tensors)
    return tl.int32 if last < 2 ** 31 else tl.int64
