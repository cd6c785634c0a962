"""Which precision things are computed in: autocast on any device, those included that have none; float32 without TF32.
"""
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside this context, operations on `device` run in the dtype of their inputs. PyTorch's own context raises on
    devices that have no autocast, as 'meta'."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def autocast_dtype(device: torch.device, otherwise: torch.dtype) -> torch.dtype:
    """The dtype that autocast gives products on `device`; `otherwise` where it is off."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return otherwise


def products_allow_tf32() -> bool:
    """Whether PyTorch is told that a GPU may make products of float32 of its TF32, which has 10 bits."""
    place, name, off = _tf32_switches()[1]
    return getattr(place, name) == ('tf32' if off == 'ieee' else True)


@contextmanager
def without_tf32(device: torch.device) -> Iterator[None]:
    """Inside this context, products and convolutions of float32 on a GPU are made of float32. By default, PyTorch makes
    convolutions of TF32. What is compiled keeps what PyTorch was told outside."""
    if device.type != 'cuda' or torch.compiler.is_compiling():
        yield
        return
    switches = _tf32_switches()
    before = [getattr(place, name) for place, name, _ in switches]
    try:
        for place, name, off in switches:
            setattr(place, name, off)
        yield
    finally:
        for (place, name, _), value in zip(switches, before):
            setattr(place, name, value)


def _tf32_switches() -> list[tuple[Any, str, object]]:
    """Of convolutions and products: what holds the switch, its name, and the value that turns TF32 off. PyTorch 2.9 has
    others than before, and reading one kind after the other was written may raise."""
    backends: Any = torch.backends
    if hasattr(backends.cudnn, 'conv'):
        return [(backends.cudnn.conv, 'fp32_precision', 'ieee'), (backends.cuda.matmul, 'fp32_precision', 'ieee')]
    return [(backends.cudnn, 'allow_tf32', False), (backends.cuda.matmul, 'allow_tf32', False)]
