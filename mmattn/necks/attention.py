from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmattn.backbones.arguments import argument_names, refuse_unknown
from mmattn.checks import check_each, check_map
from mmattn.errors import ArgumentError
from mmattn.layers.block import ATTENTIONS, AttentionBlock
from mmattn.registry import MODELS

for _layer in ATTENTIONS.values():
    MODELS.register_module(module=_layer)


@MODELS.register_module()
class AttentionPlugin(AttentionBlock):
    """An `AttentionBlock` behind a convolution of mmdet's ResNet:
    `plugins=[dict(cfg=dict(type='mmattn.AttentionPlugin', attention=…), stages=…, position='after_conv3')]`.

    Args, shapes and errors as in `AttentionBlock`; the result is contiguous.
    """
    _abbr_ = 'attention'

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous()      # mmcv's RoIAlign reads memory as (B, C, H, W) whatever strides say


@MODELS.register_module()
class AttentionNeck(BaseModule):
    """Attention on chosen levels of a pyramid, before or after an FPN; the other levels pass.

    An element of the list that mmdet and mmseg take as a neck:
    `neck=[dict(type='FPN', …), dict(type='mmattn.AttentionNeck', in_channels=[256] * 5, …)]`.

    Args:
        in_channels: channels of every level.
        attention: the layers of each chosen level, see `AttentionBlock`.
        levels: the chosen levels, negative ones from the end; None for all.
        embed_dims, mlp_ratio, drop_path_rate, layer_scale: as in `AttentionBlock`.
        init_cfg: initialization as MMEngine describes it.

    Shapes:
        one (B, C, H, W) for every level -> a tuple of the same shapes.

    Raises:
        ArgumentError: levels that are not there, other maps than `in_channels` says, an argument that the class
            does not have, and as `AttentionBlock`.

    Example:
        >>> neck = AttentionNeck([64, 128], dict(type='DeformableAttention', num_heads=4), levels=[-1])
        >>> [tuple(x.shape) for x in neck([torch.rand(1, 64, 20, 30), torch.rand(1, 128, 10, 15)])]
        [(1, 64, 20, 30), (1, 128, 10, 15)]
    """

    def __init__(self, in_channels: Sequence[int], attention: Mapping[str, Any] | Sequence[Mapping[str, Any]], *,
                 levels: Sequence[int] | None = None, embed_dims: int | None = None, mlp_ratio: float = 0.0,
                 drop_path_rate: float = 0.0, layer_scale: float = 0.0,
                 init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None, **unknown: Any) -> None:
        super().__init__(init_cfg)
        refuse_unknown(type(self).__name__, unknown, argument_names(type(self), AttentionNeck))
        check_each('in_channels', in_channels, 1)
        self.in_channels = tuple(in_channels)
        count = len(self.in_channels)
        levels = range(count) if levels is None else levels
        known = isinstance(levels, Sequence) and all(level in range(-count, count) for level in levels)
        chosen = {int(level) % count for level in levels} if known else ()
        if not known or len(chosen) < len(levels):
            raise ArgumentError(f'levels={levels!r} must be different numbers from {-count} to {count - 1}')
        self.blocks = nn.ModuleDict({
            str(i): AttentionPlugin(self.in_channels[i], attention, embed_dims=embed_dims, mlp_ratio=mlp_ratio,
                                    drop_path_rate=drop_path_rate, layer_scale=layer_scale) for i in sorted(chosen)})

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        check_maps(maps, self.in_channels)
        return tuple(self.blocks[str(i)](x) if str(i) in self.blocks else x for i, x in enumerate(maps))

    def extra_repr(self) -> str:
        return f'in_channels={self.in_channels}'


def check_maps(maps: Sequence[Tensor], in_channels: Sequence[int], dtype: torch.dtype | None = None) -> None:
    """There is a map with its channels for each level, of a dtype that goes with `dtype` if given.

    Raises:
        ArgumentError: there is not.
    """
    if len(maps) != len(in_channels):
        raise ArgumentError(f'in_channels={in_channels}, but there are {len(maps)} maps')
    for i, (x, channels) in enumerate(zip(maps, in_channels)):
        check_map(x, channels, dtype or x.dtype, f'maps[{i}]')
