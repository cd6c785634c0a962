"""CrossFormer (Wang et al., ICLR 2022, arXiv:2108.00154) and CrossFormer++ (Wang et al., TPAMI 2023,
arXiv:2303.06908)."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from mmattn.backbones.pyramid import Layout, Pyramid, Stage, init_linear, linear_rates, resolve_stages
from mmattn.checkpoint import crossformer
from mmattn.checks import check_choice
from mmattn.errors import ArgumentError
from mmattn.layers import (
    MLP,
    ConditionalPositionEncoding,
    CrossScaleEmbedding,
    DropPath,
    LayerNorm2d,
    LongDistanceAttention,
    ShortDistanceAttention,
)
from mmattn.registry import MODELS


@dataclass
class CrossFormerStage:
    """One stage of CrossFormer.

    Args:
        embed_dims: channels.
        num_heads: heads of attention.
        blocks: the attention of each block, a letter each: S short distance, L long distance.
        group_size: side of a group in tokens, of all blocks or of each (progressive group size).
        interval: pixels between the tokens of a far group.
        adaptive_interval: an interval by the size of the map instead, see `LongDistanceAttention`.
        far_groups: 'map' or 'block', whether far groups reach over the whole map, see `LongDistanceAttention`.
        position: 'dynamic', 'table' or 'none' for a position bias (see `ShortDistanceAttention`); 'conditional'
            for no bias but a position encoding before attention.
        position_rows: 'conditional' with a kernel per row, see `ConditionalPositionEncoding`.
        mlp_ratio: hidden channels of the MLP / channels.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        cooling: an activation cooling layer behind every third block but the last (ACL; CrossFormer++,
            section 3.4).
    """
    embed_dims: int
    num_heads: int
    blocks: str
    group_size: int | Sequence[int] = 7
    interval: int = 8
    adaptive_interval: bool = False
    far_groups: str = 'map'
    position: str = 'dynamic'
    position_rows: int | None = None
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    cooling: bool = False

    def attention(self, index: int) -> nn.Module:
        """The attention layer of a block."""
        check_choice('position', self.position, ('dynamic', 'table', 'none', 'conditional'))
        group_size = self.group_size
        if isinstance(group_size, Sequence):
            if len(group_size) != len(self.blocks):
                raise ArgumentError(f'group_size={group_size!r} must be one for each block of blocks={self.blocks!r}')
            group_size = group_size[index]
        arguments: dict[str, Any] = dict(
            group_size=group_size, qkv_bias=self.qkv_bias, far_groups=self.far_groups,
            position_bias='none' if self.position == 'conditional' else self.position)
        kind = self.blocks[index]
        if kind == 'S':
            return ShortDistanceAttention(self.embed_dims, self.num_heads, **arguments)
        if kind == 'L':
            return LongDistanceAttention(self.embed_dims, self.num_heads, interval=self.interval,
                                         adaptive_interval=self.adaptive_interval, **arguments)
        raise ArgumentError(f'block {kind!r} in blocks={self.blocks!r} is unknown; use S (short distance attention) or '
                            'L (long distance attention)')

    def is_cooled(self, index: int) -> bool:
        """Whether a cooling layer follows a block."""
        return self.cooling and index % 3 == 2 and index < len(self.blocks) - 1


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), both under stochastic depth; CrossFormer++ has a normalised
    depth-wise convolution after every third (ACL), which keeps activations from growing with depth."""

    def __init__(self, stage: CrossFormerStage, index: int, *, drop_path_rate: float) -> None:
        super().__init__()
        dims = stage.embed_dims
        self.norm1 = LayerNorm2d(dims)
        self.position = ConditionalPositionEncoding(
            dims, stage.position_rows) if stage.position == 'conditional' else nn.Identity()
        self.attn = stage.attention(index)
        self.norm2 = LayerNorm2d(dims)
        self.mlp = MLP(dims, stage.mlp_ratio)
        self.drop_path = DropPath(drop_path_rate)
        self.cooling = nn.Sequential(nn.Conv2d(dims, dims, 3, padding=1, groups=dims),
                                     LayerNorm2d(dims)) if stage.is_cooled(index) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.position(self.norm1(x))))
        return self.cooling(x + self.drop_path(self.mlp(x, self.norm2)))


def _arch(dims: int, depths: Sequence[int], group_sizes: Sequence[int] = (7, 7, 7, 7),
          intervals: Sequence[int] = (8, 4, 2, 1), **stage: Any) -> list[dict[str, Any]]:
    return [dict(embed_dims=dims * 2 ** i, num_heads=dims * 2 ** i // 32, blocks=('SL' * depth)[:depth],
                 group_size=group_size, interval=interval, **stage)
            for i, (depth, group_size, interval) in enumerate(zip(depths, group_sizes, intervals))]


@MODELS.register_module()
class CrossFormer(Pyramid):
    """CrossFormer backbone: every token blends patches of several scales, and attention alternates between near and
    far groups.

    Args:
        arch: 'tiny', 'small', 'base', 'large', or a list of four dicts with the fields of
            `CrossFormerStage`.
        in_channels: channels of the image.
        stem_kernel_sizes: of the cross-scale embedding of the image, with stride 4.
        downsample_kernel_sizes: of those between stages, with stride 2.
        group_sizes: side of a group, in all stages or each; None leaves what the stages
            say.
        intervals: pixels between the tokens of a far group, in all stages or each; None
            leaves what the stages say.
        adaptive_interval: see `LongDistanceAttention`; None leaves what the stages say.
        far_groups: 'map' or 'block', see `LongDistanceAttention`; None leaves what the stages say: 'map',
            as the published detectors and segmentors were trained.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        with_cp: recompute blocks in the backward pass instead of storing them.
        out_norm: layer norm on each returned map, or on some; the published detectors and segmentors have none.
        pyramid: `out_indices`, `frozen_stages`, `norm_eval`, `cut_padding`, `recompute_mlp` and `init_cfg`
            as in `mmattn.backbones.pyramid.Pyramid`.

    Shapes:
        (B, in_channels, H, W) -> one (B, embed_dims of the stage, H / (4, 8, 16, 32), W / (4, 8, 16, 32)) per
        entry of `out_indices`; sides are rounded up.

    Raises:
        ArgumentError: unknown arch or block letter, heads that do not divide the channels, kernels that do not fit the
            stride, out_indices or frozen_stages out of range.

    Example:
        >>> for x in CrossFormer(arch='tiny')(torch.rand(1, 3, 200, 320)):
        ...     print(tuple(x.shape))
        (1, 64, 50, 80)
        (1, 128, 25, 40)
        (1, 256, 13, 20)
        (1, 512, 7, 10)
    """

    arch_zoo = {
        'tiny': _arch(64, (1, 1, 8, 6)),
        'small': _arch(96, (2, 2, 6, 2)),
        'base': _arch(96, (2, 2, 18, 2)),
        'large': _arch(128, (2, 2, 18, 2)),
    }
    translate = staticmethod(crossformer.translate)

    def __init__(self, arch: str | Sequence[Mapping[str, Any]] = 'small', in_channels: int = 3, *,
                 stem_kernel_sizes: Sequence[int] = (4, 8, 16, 32), downsample_kernel_sizes: Sequence[int] = (2, 4),
                 group_sizes: int | Sequence[int] | None = None, intervals: int | Sequence[int] | None = None,
                 adaptive_interval: bool | None = None, far_groups: str | None = None, drop_path_rate: float = 0.0,
                 with_cp: bool = False, out_norm: bool | Sequence[int] = False, **pyramid: Any) -> None:
        specs = resolve_stages(arch, self.arch_zoo, CrossFormerStage, group_size=group_sizes, interval=intervals,
                               adaptive_interval=adaptive_interval, far_groups=far_groups)
        dims = [spec.embed_dims for spec in specs]
        rates = iter(linear_rates(drop_path_rate, sum(len(spec.blocks) for spec in specs)))
        super().__init__(in_channels, Layout(
            stem=nn.Sequential(
                CrossScaleEmbedding(in_channels, dims[0], kernel_sizes=stem_kernel_sizes, stride=4),
                LayerNorm2d(dims[0])),
            stages=[Stage([Block(spec, i, drop_path_rate=next(rates)) for i in range(len(spec.blocks))], with_cp)
                    for spec in specs],
            downsamples=[nn.Sequential(LayerNorm2d(a), CrossScaleEmbedding(
                a, b, kernel_sizes=downsample_kernel_sizes, stride=2)) for a, b in pairwise(dims)],
            dims=dims), out_norm=out_norm, **pyramid)
        init_linear(self)


@MODELS.register_module()
class CrossFormerPlusPlus(CrossFormer):
    """CrossFormer++ backbone: group sizes that grow with depth, and activation cooling layers.

    Args:
        arch: 'small', 'base', 'large', 'huge', or a list of four dicts with the fields of
            `CrossFormerStage`. The named ones have the groups and intervals of the published classifiers, in blocks as
            in the code that came with these; the published detectors and segmentors have others, and
            `far_groups='map'` (see configs/crossformer).
        others: as in `CrossFormer`.

    Shapes, errors:
        as in `CrossFormer`.
    """

    arch_zoo = {name: _arch(dims, depths, (4, 4, 14, 7), (4, 2, 1, 1), far_groups='block', cooling=True)
                for name, dims, depths in (('small', 64, (2, 2, 18, 2)), ('base', 96, (2, 2, 18, 2)),
                                           ('large', 128, (2, 2, 18, 2)), ('huge', 128, (6, 6, 18, 2)))}
