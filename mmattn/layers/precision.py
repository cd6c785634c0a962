import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmattn.ops.precision import without_autocast, without_tf32


def in_float32(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module in float32, on a GPU not in TF32, whatever autocast or the dtype of its weights say; float64 stays
    as it is. The backward pass is PyTorch's, which may use TF32.

    Returns:
        at least float32.
    """
    with without_autocast(x.device), without_tf32(x.device):
        if all(p.dtype in (torch.float32, torch.float64) for p in module.parameters()):
            return module(x.to(torch.promote_types(x.dtype, torch.float32)))
        weights = {name: p.float() for name, p in module.named_parameters()}
        return functional_call(module, weights, x.float())
