import torch
from torch.func import functional_call


def in_float32(module, x):
    """Apply a module in float32 whatever autocast or the dtype of its weights say; float64 stays as it is.

    Returns:
        Tensor: at least float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        if all(p.dtype in (torch.float32, torch.float64) for p in module.parameters()):
            return module(x.to(torch.promote_types(x.dtype, torch.float32)))
        weights = {name: p.float() for name, p in module.named_parameters()}
        return functional_call(module, weights, x.float())
