"""Whether a Triton kernel can serve: what speaks against it, and a trial on its first use.

Which devices, dtypes and versions compile a kernel rightly is not written down anywhere. So its first use on a device
tries it on a small problem beside the plain formula, and a failure becomes a reason not to use it.
"""
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from mmattn.ops.dispatch import is_traced
from mmattn.ops.precision import products_allow_tf32, without_autocast

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_DIMS = 128
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}       # relative, of the trial


def kernel_refusals(tensors: Sequence[Tensor], dims: Sequence[int]) -> list[str]:
    """Reasons why no Triton kernel can serve.

    Args:
        tensors: queries, keys and values.
        dims: their channels per head.
    """
    first = tensors[0]
    if first.device.type != 'cuda' and not is_interpreted():
        return [f'Triton kernels run on CUDA; q is on {first.device.type}']
    if not is_installed():
        return ['Triton is not installed']
    if is_traced():
        return ['a Triton kernel cannot be traced']
    if len({t.dtype for t in tensors}) > 1 or first.dtype not in DTYPES:
        return ['Triton kernels take float32, bfloat16 or float16, the same for all; got '
                + ', '.join(str(t.dtype) for t in tensors)]
    if max(dims) > LARGEST_DIMS:
        return [f'Triton kernels take up to {LARGEST_DIMS} channels per head; here are {max(dims)}']
    if first.is_cuda and torch.cuda.get_device_capability(first.device) < (8, 0):
        return ['Triton kernels need a GPU of compute capability 8.0 or more']
    return []


def kernel_reservations(first: Tensor, *rest: object) -> list[str]:
    """Of the row of a kernel: why one that could run is not taken unless someone asks for it."""
    return ['the interpreter is for tests'] if first.device.type != 'cuda' and is_interpreted() else []


@cache
def is_installed() -> bool:
    """Whether there is a Triton."""
    return find_spec('triton') is not None


@cache
def is_interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU instead of compiling them."""
    return os.environ.get('TRITON_INTERPRET') == '1'


def failure(run: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: dict[str, Tensor]) -> str | None:
    """Why a kernel must not be used: it raises, or errs in its output or in a gradient.

    Args:
        run: what is tried.
        plain: gives what is right.
        inputs: tensors that both take, by name; those of floating point get gradients. They are tried as they are and
            with the strides of channels-first maps, and without gradients in inference mode.

    Returns:
        A reason for a human; None if all is well.
    """
    device = next(iter(inputs.values())).device
    # What surrounds the first use stays outside: in inference mode nothing has gradients.
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(device):
        wanted = _with_gradients(plain, {name: t.double() if t.is_floating_point() else t
                                         for name, t in inputs.items()})
        for layout, arrange in (('', torch.clone), (', channels first', _channels_first)):
            arranged = {name: arrange(t) for name, t in inputs.items()}
            try:
                results = _with_gradients(run, arranged)
                with torch.inference_mode():
                    results['output in inference mode'] = run(**arranged)
            except Exception as error:      # whatever the compiler raises, the answer is to do without it
                reason = str(error).splitlines() or ['']
                return f'the Triton kernel failed on {device}{layout}: {type(error).__name__}: {reason[0]}'
            wanted['output in inference mode'] = wanted['output']
            for name, right in wanted.items():
                difference = ((results[name].double() - right).norm() / right.norm()).item()
                if not difference <= _tolerance(inputs):
                    return f'the Triton kernel errs by {difference:.1e} in the {name} on {device}{layout}'
    return None


def _tolerance(inputs: dict[str, Tensor]) -> float:
    lowest = max(TOLERANCES[t.dtype] for t in inputs.values() if t.dtype in TOLERANCES)
    return max(lowest, TOLERANCES[torch.float16]) if products_allow_tf32() else lowest


def _channels_first(t: Tensor) -> Tensor:
    """(..., d) with the strides that layers give: the channels of a token lie a map apart."""
    return t.movedim(-1, 1).contiguous().movedim(1, -1)


def _with_gradients(attend: Callable[..., Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: t.detach().requires_grad_() if t.is_floating_point() else t for name, t in inputs.items()}
    out = attend(**leaves)
    learnt = [name for name, t in leaves.items() if t.is_floating_point()]
    weights = torch.linspace(-1, 2, out.numel(), dtype=torch.double, device=out.device).view_as(out)
    grads = torch.autograd.grad((out.double() * weights).sum(), [leaves[name] for name in learnt])
    return {'output': out.detach(), **{f'gradient of {name}': grad for name, grad in zip(learnt, grads)}}
