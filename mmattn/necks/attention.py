from mmengine.model import BaseModule
from torch import nn

from mmattn import layers
from mmattn.layers import MLP, DropPath, LayerNorm2d
from mmattn.registry import MODELS

ATTENTIONS = {name: getattr(layers, name) for name in (
    'Attention', 'BiLevelRoutingAttention', 'DeformableAttention', 'DeformableDETRAttention', 'LocalAttention',
    'LongDistanceAttention', 'NeighborhoodAttention', 'ShiftedWindowAttention', 'ShortDistanceAttention',
    'SpatialReductionAttention')}
for _layer in ATTENTIONS.values():
    MODELS.register_module(module=_layer)


def check_levels(levels, count):
    """Level numbers from 0, of numbers that may count from the end.

    Raises:
        ValueError: a number is outside the `count` levels, or is there twice.
    """
    found = [level + count if level < 0 else level for level in levels]
    if len(set(found)) < len(found) or any(not 0 <= level < count for level in found):
        raise ValueError(f'levels={tuple(levels)} must be different numbers from {-count} to {count - 1}')
    return found


@MODELS.register_module()
class AttentionPlugin(BaseModule):
    """Attention layers one after another, each as x + attention(norm(x)), then x + mlp(norm(x)) if there is an MLP.

    With `layer_scale` close to zero it starts as the identity, so that it can be added to a trained network. In mmdet's
    ResNet: `plugins=[dict(cfg=dict(type='mmattn.AttentionPlugin', …), stages=…, position='after_conv3')]`.

    Args:
        in_channels (int): channels C.
        attention (dict | Sequence[dict]): layers, `type` one of `ATTENTIONS` (with or without the scope 'mmattn.') and
            their arguments without `embed_dims`.
        embed_dims (int | None): channels of attention, projected from C and back to it; None for C, not projected.
        mlp_ratio (float): hidden channels of the MLP / channels; 0 for no MLP.
        drop_path_rate (float): stochastic depth of every branch.
        layer_scale (float): first value of a factor per channel on every branch; 0 for none.
        init_cfg (dict | None): initialization as MMEngine describes it.

    Shapes:
        (B, C, H, W) -> (B, C, H, W), contiguous.

    Raises:
        ValueError: no attention, a layer that is no attention, or arguments that it refuses.
    """
    _abbr_ = 'attention'

    def __init__(self, in_channels, attention, embed_dims=None, mlp_ratio=0.0, drop_path_rate=0.0, layer_scale=0.0,
                 init_cfg=None):
        super().__init__(init_cfg)
        branches = [_build(in_channels, embed_dims, one)
                    for one in ([attention] if isinstance(attention, dict) else attention)]
        if not branches:
            raise ValueError(f'attention={attention!r} has no layer')
        if mlp_ratio:
            branches.append(MLP(in_channels, mlp_ratio))
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList(LayerNorm2d(in_channels) for _ in branches)
        self.scales = nn.ModuleList(layers.layer_scale(in_channels, layer_scale) for _ in branches)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x):
        for branch, norm, scale in zip(self.branches, self.norms, self.scales):
            x = x + self.drop_path(scale(branch(norm(x))))
        return x.contiguous()       # mmcv's RoIAlign reads memory as (B, C, H, W) whatever the strides say


def _build(in_channels, embed_dims, attention):
    arguments = dict(attention)
    kind = str(arguments.pop('type', None)).removeprefix('mmattn.')
    if kind not in ATTENTIONS:
        raise ValueError(f'attention type={kind!r} is unknown; choose one of {", ".join(ATTENTIONS)}')
    layer = ATTENTIONS[kind](embed_dims or in_channels, **arguments)
    if embed_dims is None:
        return layer
    return nn.Sequential(nn.Conv2d(in_channels, embed_dims, 1), layer, nn.Conv2d(embed_dims, in_channels, 1))


@MODELS.register_module()
class AttentionNeck(BaseModule):
    """Attention on chosen levels of a pyramid, before or after an FPN; the other levels pass.

    An element of the list that mmdet and mmseg take as a neck:
    `neck=[dict(type='FPN', …), dict(type='mmattn.AttentionNeck', in_channels=[256] * 5, …)]`.

    Args:
        in_channels (Sequence[int]): channels of every level.
        attention (dict | Sequence[dict]): the layers of each chosen level, see `AttentionPlugin`.
        levels (Sequence[int] | None): the chosen levels, negative ones from the end; None for all.
        block: `embed_dims`, `mlp_ratio`, `drop_path_rate` and `layer_scale` of `AttentionPlugin`.
        init_cfg (dict | None): initialization as MMEngine describes it.

    Shapes:
        one (B, C, H, W) for every level -> a tuple of the same shapes.

    Raises:
        ValueError: levels that are not there, another number of maps than `in_channels`, and as `AttentionPlugin`.

    Example:
        >>> neck = AttentionNeck([64, 128], dict(type='DeformableAttention', num_heads=4), levels=[-1])
        >>> [tuple(x.shape) for x in neck([torch.rand(1, 64, 20, 30), torch.rand(1, 128, 10, 15)])]
        [(1, 64, 20, 30), (1, 128, 10, 15)]
    """

    def __init__(self, in_channels, attention, levels=None, init_cfg=None, **block):
        super().__init__(init_cfg)
        self.in_channels = tuple(in_channels)
        levels = range(len(self.in_channels)) if levels is None else check_levels(levels, len(self.in_channels))
        self.blocks = nn.ModuleDict({str(i): AttentionPlugin(self.in_channels[i], attention, **block) for i in levels})

    def forward(self, maps):
        check_maps(maps, self.in_channels)
        return tuple(self.blocks[str(i)](x) if str(i) in self.blocks else x for i, x in enumerate(maps))


def check_maps(maps, in_channels):
    """There is a map with its channels for each level.

    Raises:
        ValueError: there is not.
    """
    channels = tuple(x.shape[1] for x in maps)
    if channels != tuple(in_channels):
        raise ValueError(f'in_channels={tuple(in_channels)}, but the maps have {channels} channels')
