from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmattn.backbones.arguments import argument_names, refuse_unknown
from mmattn.checks import check_at_least, check_divides, check_each
from mmattn.errors import ArgumentError
from mmattn.layers import CrossScaleEmbedding
from mmattn.necks.attention import AttentionPlugin, check_maps
from mmattn.registry import MODELS


@MODELS.register_module()
class CrossScaleNeck(BaseModule):
    """A pyramid whose levels blend with those above and below: each is the sum of its own projection, a cross-scale
    embedding of the finer level and the enlarged coarser one, followed by short and long distance attention.

    Cross-scale embedding and the two kinds of attention are CrossFormer's (Wang et al., ICLR 2022, sections 3.1 and
    3.2), which it has in a backbone; it takes the place of an FPN or follows one.

    Args:
        in_channels: channels of every level, the finest first; each level has half the sides of the
            one before it.
        out_channels: channels of every level that it gives.
        num_heads: heads of attention, must divide `out_channels`.
        group_size: side of a group in tokens.
        intervals: pixels between the tokens of a far group on each level; None starts with 8 on
            the finest and halves.
        kernel_sizes: of the cross-scale embeddings, with stride 2.
        mlp_ratio: hidden channels of the MLP / channels; 0 for no MLP.
        num_outs: maps that it gives; those behind the levels are the last one halved again and again.
            None gives the levels.
        init_cfg: initialization as MMEngine describes it.

    Shapes:
        one (B, in_channels[i], H / 2^i, W / 2^i) for every level -> a tuple of `num_outs` maps with `out_channels`.

    Raises:
        ArgumentError: fewer `num_outs` than levels, another number of `intervals` than levels, other maps than
            `in_channels` says, heads or kernels that do not fit.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256, *, num_heads: int = 8, group_size: int = 7,
                 intervals: Sequence[int] | None = None, kernel_sizes: Sequence[int] = (2, 4), mlp_ratio: float = 0.0,
                 num_outs: int | None = None,
                 init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None, **unknown: Any) -> None:
        super().__init__(init_cfg)
        refuse_unknown(type(self).__name__, unknown, argument_names(type(self), CrossScaleNeck))
        check_each('in_channels', in_channels, 1)
        check_divides('out_channels', out_channels, 'num_heads', num_heads)
        self.in_channels = tuple(in_channels)
        count = len(self.in_channels)
        self.out_channels = out_channels
        self.num_outs = count if num_outs is None else num_outs
        check_at_least('num_outs', self.num_outs, count)
        intervals = [max(8 >> i, 1) for i in range(count)] if intervals is None else intervals
        check_each('intervals', intervals, 1)
        if len(intervals) != count:
            raise ArgumentError(f'intervals={tuple(intervals)} are not one for each of {count} levels')
        self.projections = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in self.in_channels)
        self.embeddings = nn.ModuleList(CrossScaleEmbedding(out_channels, out_channels,
                                                            kernel_sizes=kernel_sizes, stride=2)
                                        for _ in self.in_channels[1:])
        attention = dict(num_heads=num_heads, group_size=group_size)
        self.blocks = nn.ModuleList(
            AttentionPlugin(out_channels, [dict(type='ShortDistanceAttention', **attention),
                                           dict(type='LongDistanceAttention', interval=interval, **attention)],
                            mlp_ratio=mlp_ratio) for interval in intervals)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        check_maps(maps, self.in_channels, next(self.projections.parameters()).dtype)
        maps = [projection(x) for projection, x in zip(self.projections, maps)]
        outs = []
        for i, x in enumerate(maps):
            size = x.shape[2:]
            if i:
                x = x + _resized(self.embeddings[i - 1](maps[i - 1]), size)
            if i + 1 < len(maps):
                x = x + _resized(maps[i + 1], size)
            outs.append(self.blocks[i](x))
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, 2))
        return tuple(outs)

    def extra_repr(self) -> str:
        return f'in_channels={self.in_channels}, num_outs={self.num_outs}'


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size, mode='nearest')
