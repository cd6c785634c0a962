from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper

from mmattn.registry import OPTIM_WRAPPERS

# By the module that a class is of. mmcv's operators have no bfloat16, and sums of losses need the digits.
TAKE_FLOAT32 = ('mmcv.ops.', 'mmdet.models.losses.', 'mmdet.models.roi_heads.roi_extractors.', 'mmseg.models.losses.')
GIVE_FLOAT32 = ('mmdet.models.dense_heads.',)       # scores, which go into non-maximum suppression


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on a GPU or the CPU: weights and their updates are float32, and there is no loss
    scale, because bfloat16 has float32's range.

    mmcv's operators and the losses take their inputs in float32.

    Args:
        **kwargs: of MMEngine's OptimWrapper.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._prepared = None

    @contextmanager
    def optim_context(self, model):
        if self._prepared is not model:
            self._prepared = model
            keep_in_float32(model)
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield


def keep_in_float32(model):
    """Let the parts of a model that need it compute in float32 under autocast."""
    for module in model.modules():
        kind = type(module).__module__
        if kind.startswith(TAKE_FLOAT32):
            module.register_forward_pre_hook(lambda module, args, kwargs: widened((args, kwargs)), with_kwargs=True)
        if kind.startswith(GIVE_FLOAT32):
            module.register_forward_hook(lambda module, args, output: widened(output))


def widened(value):
    """Nested containers with their bfloat16 tensors as float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype is torch.bfloat16 else value
    if type(value) in (list, tuple):
        return type(value)(widened(part) for part in value)
    if type(value) is dict:
        return {name: widened(part) for name, part in value.items()}
    return value
