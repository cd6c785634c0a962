"""Mixed precision in which what needs float32 is computed in it, as mmdet 2 and mmseg 0 did: losses, RoI extraction,
the decoding of boxes and the ranking of proposals, the resizing of logits."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper as MMEngineAmpOptimWrapper
from mmengine.optim import OptimWrapper
from torch import nn

from mmattn.registry import OPTIM_WRAPPERS

# By the module that a class, or one that it derives from, is of. mmcv's operators have no bfloat16, sums of losses need
# the digits, and so do coordinates: from 1024 pixels on, float16 has none after the point.
TAKE_FLOAT32 = ('mmcv.ops.', 'mmdet.models.losses.', 'mmdet.models.roi_heads.roi_extractors.', 'mmseg.models.losses.')
# Heads, whose logits and deltas go into losses, boxes and non-maximum suppression.
GIVE_FLOAT32 = ('mmdet.models.dense_heads.', 'mmdet.models.roi_heads.bbox_heads.', 'mmdet.models.roi_heads.mask_heads.',
                'mmdet.models.seg_heads.', 'mmseg.models.decode_heads.')


class Float32Parts:
    """Lets an optimizer wrapper keep in float32 what needs it."""

    _prepared: nn.Module | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        if self._prepared is not model:
            self._prepared = model
            keep_in_float32(model)
        with super().optim_context(model):      # type: ignore[misc]  # of the wrapper beside it
            yield


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(Float32Parts, MMEngineAmpOptimWrapper):
    """MMEngine's mixed precision in float16, on a GPU, with a scaled loss; losses, RoI extraction, decoded boxes and
    the ranking of proposals are float32.

    Args:
        **kwargs: of MMEngine's AmpOptimWrapper.
    """


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(Float32Parts, OptimWrapper):
    """Mixed precision in bfloat16, on a GPU or the CPU: weights and their updates are float32, and there is no loss
    scale, because bfloat16 has float32's range; the same is float32 as in `AmpOptimWrapper`.

    Args:
        **kwargs: of MMEngine's OptimWrapper.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield


def keep_in_float32(model: nn.Module) -> None:
    """Let the parts of a model that need it compute in float32 under autocast; twice is the same as once."""
    for module in model.modules():
        if _is_of(module, TAKE_FLOAT32) and _widen_inputs not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_widen_inputs, with_kwargs=True)
        # of the parts of a head, for example pooling, the head alone
        if _is_of(module, GIVE_FLOAT32) and (hasattr(module, 'loss') or hasattr(module, 'loss_and_target')):
            for name, method in WIDENED.items():
                if hasattr(type(module), name):
                    setattr(module, name, MethodType(method, module))       # a copy of the module gets one of its own


def widened(value: Any) -> Any:
    """Nested containers with their bfloat16 and float16 tensors as float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if type(value) in (list, tuple):
        return type(value)(widened(part) for part in value)
    if type(value) is dict:
        return {name: widened(part) for name, part in value.items()}
    return value


def _is_of(module: nn.Module, rooms: tuple[str, ...]) -> bool:
    return any(kind.__module__.startswith(rooms) for kind in type(module).__mro__)


def _widen_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return widened((args, kwargs))


def _widening(name: str) -> Callable[..., Any]:
    """A method in place of that of a class, with outputs in float32."""
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return widened(getattr(type(self), name)(self, *args, **kwargs))
    method.__name__ = name
    return method


# No hooks: mmseg, mmdet's semantic heads and heads of others call `self.forward` or, map by map, `self.forward_single`.
WIDENED = {name: _widening(name) for name in ('forward', 'forward_single')}
