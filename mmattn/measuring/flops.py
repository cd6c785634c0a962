"""Parameters and multiply-adds of the parts of a model; `mmattn get-flops` says what counts."""
from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from mmattn.engine.building import build_model
from mmattn.errors import UsageError
from mmattn.layers import NeighborhoodAttention
from mmattn.ops import convolution, deformable

# (height, width) that the papers count for
SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}
PROPOSALS, MASKS = 1000, 100


@dataclass
class Count:
    """Parameters, multiply-adds, and how many of these are products of attention and bilinear samples; beside these,
    what some count too: biases that convolutions add and outputs of ReLU."""
    parameters: int = 0
    total: int = 0
    attention: int = 0
    sampling: int = 0
    pointwise: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(*(a + b for a, b in zip(astuple(self), astuple(other))))


def count_model(cfg: Config, shape: tuple[int, int] | None = None) -> dict[str, Count]:
    """Count each part of the model of a config, on tensors that have shapes but no values.

    Args:
        cfg: with a model of mmdet, mmseg or mmpretrain.
        shape: (height, width) of the image; None takes the one that the papers count for.

    Returns:
        the counts of 'backbone', 'neck' and the heads; of a model of the DETR kind, those of all behind the neck are
        one, 'transformer'.

    Raises:
        UsageError: the model has no backbone.
    """
    shape = shape or SHAPES[cfg.default_scope]
    model = build_model(cfg).eval().requires_grad_(False)
    if not hasattr(model, 'backbone'):
        raise UsageError(f'{type(model).__name__} is not a model with a backbone, of which the parts could be counted')
    model.backbone.cut_padding = False      # there are no values that could show any
    counts = {name: Count(_parameters(part)) for name, part in model.named_children() if _parameters(part)}
    rest = _name_of_rest(model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        x = torch.empty(1, 3, *shape)
        for name in ('backbone', 'neck', *(() if rest else ('rpn_head', 'bbox_head', 'decode_head', 'head'))):
            if getattr(model, name, None) is not None:
                out, count = count_call(getattr(model, name), x)
                counts[name] += count
                if name in ('backbone', 'neck'):
                    x = out
        for head, rois in _roi_heads(getattr(model, 'roi_head', None)):
            counts['roi_head'] += count_call(head, rois)[1]
    if rest:
        counts = {name: count for name, count in counts.items() if name in ('backbone', 'neck')}
        parameters = _parameters(model) - sum(count.parameters for count in counts.values())
        counts[rest] = Count(parameters) + _count_rest(model, cfg, shape, [tuple(one.shape) for one in x])
    return counts


def _name_of_rest(model: nn.Module) -> str | None:
    """What is to be called on values, because what it does depends on them or on the size of the image: all behind the
    neck of a DETR and its kin, the head of a Mask2Former or MaskFormer; None where shapes suffice."""
    if hasattr(model, 'forward_transformer'):
        return 'transformer'
    masks = (name for name in ('panoptic_head', 'decode_head') if hasattr(getattr(model, name, None), 'pixel_decoder'))
    return next(masks, None)


class _Rest(nn.Module):
    """What `_name_of_rest` names, as a module that takes maps."""

    def __init__(self, model: Any, shape: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.samples = [BaseDataElement(metainfo=dict(img_shape=shape, batch_input_shape=shape))]

    def forward(self, maps: tuple[Tensor, ...]) -> Any:
        name = _name_of_rest(self.model)
        if name == 'transformer':
            return self.model.bbox_head(**self.model.forward_transformer(maps, self.samples))
        return getattr(self.model, str(name))(maps, self.samples)


def _count_rest(model: Any, cfg: Config, shape: tuple[int, int], sizes: list[tuple[int, ...]]) -> Count:
    """Count what `_name_of_rest` names on random maps."""
    fast = torch.backends.mha.get_fastpath_enabled()
    scope = DefaultScope.overwrite_default_scope(cfg.default_scope)
    torch.backends.mha.set_fastpath_enabled(False)      # whose products the counter does not know
    try:
        with torch.no_grad(), scope:
            return count_call(_Rest(model, shape), tuple(torch.rand(size) for size in sizes))[1]
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _parameters(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def _roi_heads(roi_head: Any) -> Iterator[tuple[nn.Module, Tensor]]:
    """Every box and mask head of a two-stage detector with what RoIAlign gives it."""
    for kind, number in (('bbox', PROPOSALS), ('mask', MASKS)):
        heads = getattr(roi_head, f'{kind}_head', None)
        if heads is None:
            continue
        extractors = getattr(roi_head, f'{kind}_roi_extractor')
        several = isinstance(heads, torch.nn.ModuleList)
        for head, extractor in zip(heads if several else [heads], extractors if several else [extractors]):
            size = extractor.roi_layers[0].output_size
            yield head, torch.empty(number, extractor.out_channels, *size)


def count_call(module: nn.Module, x: Any) -> tuple[Any, Count]:
    """Call a module; returns what it gives, and the Count of what it does, without its parameters."""
    aten = torch.ops.aten
    counter = FlopCounterMode(display=False, custom_mapping={
        aten.grid_sampler_2d: lambda *args, out_shape, **kwargs: 2 * 4 * out_shape.numel()})
    neighborhoods: dict[str, tuple[NeighborhoodAttention, Tensor]] = {}
    pointwise: list[int] = []
    hooks = [part.register_forward_hook(lambda part, _, out: pointwise.append(out.numel())) for part in module.modules()
             if isinstance(part, torch.nn.ReLU) or (isinstance(part, _ConvNd) and part.bias is not None)]
    hooks += [layer.register_forward_hook(lambda layer, _, out, name=name: neighborhoods.update({name: (layer, out)}))
             for name, layer in module.named_modules() if isinstance(layer, NeighborhoodAttention)]
    # The dense backend is the formula (its bias is sampled), convolutions of patches complete their kernels with zeros,
    # and products are what the counter knows on every device.
    formulas = {deformable.IMPLEMENTATIONS.variable: 'dense', convolution.IMPLEMENTATIONS.variable: 'reference'}
    with patch.dict(os.environ, formulas), sdpa_kernel(SDPBackend.MATH), counter:
        out = module(x)
    for hook in hooks:
        hook.remove()
    flops = counter.get_flop_counts()
    everything = flops.get('Global', {})
    count = Count(0, counter.get_total_flops(), everything.get(aten.bmm, 0), everything.get(aten.grid_sampler_2d, 0))
    for name, (layer, seen) in neighborhoods.items():
        # Tiles of queries share their keys: each query uses those of its own window.
        sides = [layer.kernel_size if layer.pad_small else min(layer.kernel_size, side) for side in seen.shape[2:]]
        ran = flops['.'.join(filter(None, (type(module).__name__, name)))][aten.bmm]
        extra = 4 * seen.numel() * math.prod(sides) - ran
        count += Count(0, extra, extra, 0)
    halves = Count(*(n // 2 for n in astuple(count)))
    return out, replace(halves, pointwise=sum(pointwise))
