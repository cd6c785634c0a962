"""Vision Transformer with Deformable Attention: DAT (Xia et al., CVPR 2022, arXiv:2201.00520) and DAT++ (Xia et al.,
2023, arXiv:2309.01430)."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

from torch import Tensor, nn

from mmattn.backbones.pyramid import Layout, PatchConv, Pyramid, Stage, linear_rates, resolve_stages
from mmattn.checkpoint import dat
from mmattn.checks import check_at_least, check_choice, check_kernel
from mmattn.errors import ArgumentError
from mmattn.layers import (
    MLP,
    DeformableAttention,
    DepthwiseMLP,
    DropPath,
    LayerNorm2d,
    LocalAttention,
    NeighborhoodAttention,
    ShiftedWindowAttention,
    SpatialReductionAttention,
    layer_scale,
)
from mmattn.registry import MODELS


@dataclass
class Shared:
    """What all stages of a network have in common; see `DAT`."""
    convention: str
    mlp_ratio: float
    drop_rate: float
    attn_drop_rate: float


@dataclass
class DATStage:
    """One stage of DAT or DAT++.

    Args:
        embed_dims: channels.
        num_heads: attention heads.
        blocks: the kind of each block, a letter each: L local, S shifted window, N neighbourhood, D deformable
            and P spatial-reduction attention, X depth-wise convolution.
        window_size: side of the windows of L and S, and of the convolution of X, for which it is odd.
        kernel_size: side of the neighbourhood of N.
        sr_ratio: P shrinks its keys by this factor along each side.
        stride: pixels per sampling point of D.
        offset_groups: groups of D with sampling points of their own.
        offset_kernel_size: depth-wise kernel of the offset network of D.
        offset_range_factor: bound of the offsets of D in cells; negative keeps the points in the image.
        offsets: whether the points of D leave their grid.
        position_bias: of D: 'table', 'log_cpb', 'fixed', 'depthwise' or 'none' (see `DeformableAttention`).
        lpu: add a 3 x 3 depth-wise convolution to the input of each block (local perception unit; CMT, eq. 1).
        mlp: 'linear', 'depthwise', or 'depthwise_residual' (see `DepthwiseMLP`).
        layer_scale: first value of a factor per channel on each branch; 0 for none.
    """
    embed_dims: int
    num_heads: int
    blocks: str
    window_size: int = 7
    kernel_size: int = 7
    sr_ratio: int = 1
    stride: int = 1
    offset_groups: int = 1
    offset_kernel_size: int = 5
    offset_range_factor: float = 2.0
    offsets: bool = True
    position_bias: str = 'table'
    lpu: bool = False
    mlp: str = 'linear'
    layer_scale: float = 0.0

    def block(self, kind: str, shared: Shared, *, table_size: int, drop_path_rate: float) -> nn.Module:
        """The block that a letter stands for; position bias tables are for maps of `table_size` pixels a side."""
        mlp = self._mlp(shared)
        if kind == 'X':
            check_kernel('window_size', self.window_size)
            return ConvolutionBlock(self, mlp, drop_path_rate=drop_path_rate)
        return Block(self, self._attention(kind, shared, table_size), mlp=mlp, drop_path_rate=drop_path_rate)

    def _attention(self, kind: str, shared: Shared, table_size: int) -> nn.Module:
        dims, heads = self.embed_dims, self.num_heads
        drop: dict[str, Any] = dict(attn_drop_rate=shared.attn_drop_rate, drop_rate=shared.drop_rate)
        if kind == 'L':
            return LocalAttention(dims, heads, window_size=self.window_size, **drop)
        if kind == 'S':
            return ShiftedWindowAttention(dims, heads, window_size=self.window_size, **drop)
        if kind == 'N':
            return NeighborhoodAttention(dims, heads, kernel_size=self.kernel_size, **drop)
        if kind == 'P':
            return SpatialReductionAttention(dims, heads, sr_ratio=self.sr_ratio, **drop)
        if kind == 'D':
            return DeformableAttention(
                dims, heads, offset_groups=self.offset_groups, stride=self.stride,
                offset_kernel_size=self.offset_kernel_size, offset_range_factor=self.offset_range_factor,
                offsets=self.offsets, position_bias=self.position_bias, table_size=table_size,
                convention=shared.convention, **drop)
        raise ArgumentError(f'block {kind!r} in blocks={self.blocks!r} is unknown; use L (local), S (shifted window), '
                            'N (neighbourhood), D (deformable), P (spatial reduction) or X (convolution)')

    def _mlp(self, shared: Shared) -> nn.Module:
        check_choice('mlp', self.mlp, ('linear', 'depthwise', 'depthwise_residual'))
        if self.mlp == 'linear':
            return MLP(self.embed_dims, shared.mlp_ratio, drop_rate=shared.drop_rate)
        return DepthwiseMLP(self.embed_dims, shared.mlp_ratio, drop_rate=shared.drop_rate,
                            residual=self.mlp == 'depthwise_residual')


class LocalPerceptionUnit(nn.Conv2d):
    """x + 3 x 3 depth-wise convolution of x (CMT; Guo et al., CVPR 2022, eq. 1)."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); both branches under layer scale and stochastic depth, behind a
    local perception unit where the stage has one."""

    def __init__(self, stage: DATStage, attention: nn.Module, *, mlp: nn.Module, drop_path_rate: float) -> None:
        super().__init__()
        dims = stage.embed_dims
        self.lpu = LocalPerceptionUnit(dims) if stage.lpu else nn.Identity()
        self.norm1 = LayerNorm2d(dims)
        self.attn = attention
        self.scale1 = layer_scale(dims, stage.layer_scale)
        self.norm2 = LayerNorm2d(dims)
        self.mlp = mlp
        self.scale2 = layer_scale(dims, stage.layer_scale)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lpu(x)
        x = x + self.drop_path(self.scale1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(x, self.norm2)))


class ConvolutionBlock(nn.Module):
    """x + mlp(norm(depth-wise convolution of x)) (ConvNeXt; Liu et al., CVPR 2022, figure 4)."""

    def __init__(self, stage: DATStage, mlp: nn.Module, *, drop_path_rate: float) -> None:
        super().__init__()
        dims = stage.embed_dims
        self.lpu = LocalPerceptionUnit(dims) if stage.lpu else nn.Identity()
        self.conv = nn.Conv2d(dims, dims, stage.window_size, padding=stage.window_size // 2, groups=dims)
        self.norm = LayerNorm2d(dims)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lpu(x)
        return x + self.drop_path(self.mlp(self.conv(x), self.norm))


def _stem(kind: str, in_channels: int, dims: int, patch_size: int, pad: bool) -> nn.Module:
    check_choice('stem', kind, ('patch', 'overlapping', 'convolutional'))
    check_at_least('in_channels', in_channels, 1)
    if kind == 'patch':
        return nn.Sequential(PatchConv(in_channels, dims, patch_size=patch_size, pad=pad), LayerNorm2d(dims))
    if kind == 'overlapping':
        return nn.Sequential(nn.Conv2d(in_channels, dims, 7, patch_size, 3), LayerNorm2d(dims))
    stride = isqrt(patch_size)
    if stride ** 2 != patch_size:
        raise ArgumentError(f'patch_size={patch_size} must be a square for stem={kind!r}, which has two convolutions')
    return nn.Sequential(nn.Conv2d(in_channels, dims // 2, 3, stride, 1), LayerNorm2d(dims // 2), nn.GELU(),
                         nn.Conv2d(dims // 2, dims, 3, stride, 1), LayerNorm2d(dims))


def _downsample(kind: str, in_dims: int, out_dims: int, pad: bool) -> nn.Module:
    if kind == 'patch':
        return nn.Sequential(PatchConv(in_dims, out_dims, patch_size=2, bias=False, pad=pad), LayerNorm2d(out_dims))
    return nn.Sequential(nn.Conv2d(in_dims, out_dims, 3, 2, 1, bias=False), LayerNorm2d(out_dims))


def _dat(dims: Sequence[int], heads: Sequence[int], depth: int, groups: Sequence[int]) -> list[dict[str, Any]]:
    blocks = ('LS', 'LS', 'LD' * (depth // 2), 'LD')
    return [dict(embed_dims=d, num_heads=h, blocks=b, offset_groups=g, offset_kernel_size=k)
            for d, h, b, g, k in zip(dims, heads, blocks, (1, 1, *groups), (9, 7, 5, 3))]


def _dat_pp(dims: Sequence[int], heads: Sequence[int], groups: Sequence[int]) -> list[dict[str, Any]]:
    blocks = ('ND', 'NDND', 'ND' * 9, 'DD')
    return [dict(embed_dims=d, num_heads=h, blocks=b, offset_groups=g, offset_kernel_size=k, stride=s,
                 offset_range_factor=-1, lpu=True, mlp='depthwise_residual')
            for d, h, b, g, k, s in zip(dims, heads, blocks, groups, (9, 7, 5, 3), (8, 4, 2, 1))]


@MODELS.register_module()
class DAT(Pyramid):
    """DAT backbone (CVPR 2022): local and shifted-window attention first, deformable attention in the last two stages.

    Args:
        arch: 'tiny', 'small', 'base', or a list of four dicts with the fields of `DATStage`.
        in_channels: channels of the image.
        patch_size: the stem shrinks the image by this factor along each side.
        stem: 'patch' embeds patches that do not overlap, here and between stages; 'overlapping' embeds 7 x 7
            patches, 'convolutional' has two 3 x 3 convolutions that shrink by the root of `patch_size` each, and both
            have 3 x 3 convolutions between stages.
        pad_patches: complete the last row and column of patches with zeros. False leaves out what does not
            fill a patch, as the authors' code does; it matters where `patch_size` * 8 does not divide the image.
        convention: coordinates of deformable attention, 'dat' or 'dat_pp' (see `mmattn.ops.grid`).
        window_sizes: side of the windows, in all stages or each; None leaves what the stages say, 7 in the named
            architectures. The published DAT-B for images of 384 pixels has 12.
        mlp_ratio: hidden channels of an MLP / channels.
        pretrain_img_size: image side for which the position bias tables hold one entry per displacement;
            224 in the published models. Any image size works whatever this is.
        drop_rate: dropout of layer outputs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        with_cp: recompute blocks in the backward pass instead of storing them.
        pyramid: `out_indices`, `frozen_stages`, `norm_eval`, `out_norm`, `cut_padding`, `recompute_mlp` and `init_cfg`
            as in `mmattn.backbones.pyramid.Pyramid`.

    Shapes:
        (B, in_channels, H, W) -> one (B, embed_dims of the stage, H / (4, 8, 16, 32), W / (4, 8, 16, 32)) per
        entry of `out_indices`; sides are rounded up (down with `pad_patches=False`, but never to 0).

    Raises:
        ArgumentError: unknown arch, stem, convention or block letter, heads that do not divide the channels, groups
            that do not divide the heads, out_indices or frozen_stages out of range.

    Example:
        >>> for x in DAT(arch='tiny')(torch.rand(1, 3, 200, 320)):
        ...     print(tuple(x.shape))
        (1, 96, 50, 80)
        (1, 192, 25, 40)
        (1, 384, 13, 20)
        (1, 768, 7, 10)
    """

    arch_zoo = {
        'tiny': _dat((96, 192, 384, 768), (3, 6, 12, 24), depth=6, groups=(3, 6)),
        'small': _dat((96, 192, 384, 768), (3, 6, 12, 24), depth=18, groups=(3, 6)),
        'base': _dat((128, 256, 512, 1024), (4, 8, 16, 32), depth=18, groups=(4, 8)),
    }
    translate = staticmethod(dat.translate)

    def __init__(self, arch: str | Sequence[Mapping[str, Any]] = 'tiny', in_channels: int = 3, *, patch_size: int = 4,
                 stem: str = 'patch', pad_patches: bool = True, convention: str = 'dat',
                 window_sizes: int | Sequence[int] | None = None, mlp_ratio: float = 4.0,
                 pretrain_img_size: int = 224, drop_rate: float = 0.0, attn_drop_rate: float = 0.0,
                 drop_path_rate: float = 0.0, with_cp: bool = False, **pyramid: Any) -> None:
        check_at_least('patch_size', patch_size, 1)
        check_at_least('pretrain_img_size', pretrain_img_size, 1)
        specs = resolve_stages(arch, self.arch_zoo, DATStage, window_size=window_sizes)
        shared = Shared(convention, mlp_ratio, drop_rate, attn_drop_rate)
        dims = [spec.embed_dims for spec in specs]
        rates = iter(linear_rates(drop_path_rate, sum(len(spec.blocks) for spec in specs)))
        stages = []
        for i, spec in enumerate(specs):
            table_size = max(pretrain_img_size // (patch_size * 2 ** i), 1)
            stages.append(Stage([spec.block(kind, shared, table_size=table_size, drop_path_rate=next(rates))
                                 for kind in spec.blocks], with_cp))
        super().__init__(in_channels, Layout(
            stem=_stem(stem, in_channels, dims[0], patch_size, pad_patches),
            stages=stages,
            downsamples=[_downsample(stem, *pair, pad_patches) for pair in pairwise(dims)],
            dims=dims, stem_stride=patch_size), **pyramid)
        self.rounds_down = stem == 'patch' and not pad_patches

    def map_sizes(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        if not self.rounds_down:
            return super().map_sizes(size)
        return [tuple(max(side // self.stage_strides[i], 1) for side in size) for i in self.out_indices]


@MODELS.register_module()
class DATPlusPlus(DAT):
    """DAT++ backbone (2023): neighbourhood and deformable attention in every stage, convolutions in the stem, between
    stages, before each block (local perception units) and in the MLPs.

    Args, shapes and errors as in `DAT`; `arch` is 'tiny', 'small', 'base' or a list of stages.

    Example:
        >>> for x in DATPlusPlus(arch='tiny')(torch.rand(1, 3, 200, 320)):
        ...     print(tuple(x.shape))
        (1, 64, 50, 80)
        (1, 128, 25, 40)
        (1, 256, 13, 20)
        (1, 512, 7, 10)
    """

    arch_zoo = {
        'tiny': _dat_pp((64, 128, 256, 512), (2, 4, 8, 16), groups=(1, 2, 4, 8)),
        'small': _dat_pp((96, 192, 384, 768), (3, 6, 12, 24), groups=(1, 2, 3, 6)),
        'base': _dat_pp((128, 256, 512, 1024), (4, 8, 16, 32), groups=(2, 4, 8, 16)),
    }

    def __init__(self, arch: str | Sequence[Mapping[str, Any]] = 'tiny', in_channels: int = 3, *,
                 stem: str = 'convolutional', convention: str = 'dat_pp', **dat: Any) -> None:
        super().__init__(arch, in_channels, stem=stem, convention=convention, **dat)
