"""BiFormer: vision transformer with bi-level routing attention (Zhu et al., CVPR 2023, arXiv:2303.08810)."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from mmattn.backbones.pyramid import Layout, PatchConv, Pyramid, Stage, init_linear, linear_rates, resolve_stages
from mmattn.checkpoint import biformer
from mmattn.checks import check_at_least, check_choice, check_kernel
from mmattn.errors import ArgumentError
from mmattn.layers import MLP, Attention, BiLevelRoutingAttention, DepthwiseMLP, DropPath, LayerNorm2d, layer_scale
from mmattn.registry import MODELS

Norm = partial(LayerNorm2d, eps=1e-6)


@dataclass
class BiFormerStage:
    """One stage of BiFormer.

    Args:
        embed_dims: channels.
        num_heads: heads of routing attention. Full attention has eight, as in the published models.
        blocks: the kind of each block, a letter each: R bi-level routing attention, A full attention, E full
            attention with LePE, C convolution.
        topk: regions that a region of R attends to.
        num_windows: regions along each side of the map.
        routing: further arguments of `BiLevelRoutingAttention`.
        lepe_kernel_size: LePE of R and E.
        lepe_of: what LePE of E reads, 'input' or 'value' (see `Attention`).
        pos_kernel_size: depth-wise convolution that is added to the input of each block; 0 for none.
        mlp_ratio: hidden channels of the MLP / channels.
        mlp: 'linear' or 'depthwise' (see `DepthwiseMLP`).
        layer_scale: first value of a factor per channel on each branch; 0 for none.
        pre_norm: norm before attention and MLP, or after each is added.
    """
    embed_dims: int
    num_heads: int
    blocks: str
    topk: int = 4
    num_windows: int = 7
    routing: Mapping[str, Any] | None = None
    lepe_kernel_size: int = 5
    lepe_of: str = 'input'
    pos_kernel_size: int = 3
    mlp_ratio: float = 3.0
    mlp: str = 'linear'
    layer_scale: float = 0.0
    pre_norm: bool = True

    def attention(self, kind: str) -> nn.Module:
        """The layer that a letter stands for."""
        if kind == 'R':
            return BiLevelRoutingAttention(self.embed_dims, self.num_heads, num_windows=self.num_windows,
                                           topk=self.topk, lepe_kernel_size=self.lepe_kernel_size,
                                           **self.routing or {})
        if kind == 'A':
            return Attention(self.embed_dims)
        if kind == 'E':
            return Attention(self.embed_dims, lepe_kernel_size=self.lepe_kernel_size, lepe_of=self.lepe_of)
        if kind == 'C':
            dims = self.embed_dims
            return nn.Sequential(nn.Conv2d(dims, dims, 1), nn.Conv2d(dims, dims, 5, padding=2, groups=dims),
                                 nn.Conv2d(dims, dims, 1))
        raise ArgumentError(f'block {kind!r} in blocks={self.blocks!r} is unknown; use R (routing attention), A (full '
                            'attention), E (full attention with LePE) or C (convolution)')

    def feed_forward(self) -> nn.Module:
        """The MLP of a block."""
        check_choice('mlp', self.mlp, ('linear', 'depthwise'))
        if self.mlp == 'linear':
            return MLP(self.embed_dims, self.mlp_ratio)
        return DepthwiseMLP(self.embed_dims, self.mlp_ratio, residual=False)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that says which input it cannot train on."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            raise ArgumentError(f'x of shape {tuple(x.shape)} has one value per channel, too few for batch norm in '
                                'training; take larger images or batches, or norm_eval=True')
        return super().forward(x)


class Block(nn.Module):
    """Attention and MLP, each added to what it reads under layer scale and stochastic depth, with a norm before it or
    after the sum; behind a depth-wise convolution that encodes positions."""

    def __init__(self, stage: BiFormerStage, kind: str, *, drop_path_rate: float) -> None:
        super().__init__()
        dims, kernel = stage.embed_dims, stage.pos_kernel_size
        if kernel:
            check_kernel('pos_kernel_size', kernel)
        self.pos_embed = nn.Conv2d(dims, dims, kernel, padding=kernel // 2, groups=dims) if kernel else None
        self.norm1 = Norm(dims)
        self.attn = stage.attention(kind)
        self.norm2 = Norm(dims)
        self.mlp = stage.feed_forward()
        self.scale1 = layer_scale(dims, stage.layer_scale)
        self.scale2 = layer_scale(dims, stage.layer_scale)
        self.drop_path = DropPath(drop_path_rate)
        self.pre_norm = stage.pre_norm

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed:
            x = x + self.pos_embed(x)
        if self.pre_norm:
            x = x + self.drop_path(self.scale1(self.attn(self.norm1(x))))
            return x + self.drop_path(self.scale2(self.mlp(x, self.norm2)))
        x = self.norm1(x + self.drop_path(self.scale1(self.attn(x))))
        return self.norm2(x + self.drop_path(self.scale2(self.mlp(x))))

    def extra_repr(self) -> str:
        return '' if self.pre_norm else 'pre_norm=False'


def stem_of(kind: str, in_channels: int, dims: int) -> nn.Module:
    """Image -> map of a quarter of the side: 'convolutional' or 'patch', see `BiFormer`."""
    check_choice('stem', kind, ('convolutional', 'patch'))
    check_at_least('in_channels', in_channels, 1)
    if kind == 'convolutional':
        check_at_least('embed_dims', dims, 2)       # the first convolution has half of them
        return nn.Sequential(nn.Conv2d(in_channels, dims // 2, 3, 2, 1), BatchNorm2d(dims // 2), nn.GELU(),
                             nn.Conv2d(dims // 2, dims, 3, 2, 1), BatchNorm2d(dims))
    return nn.Sequential(PatchConv(in_channels, dims, patch_size=4), BatchNorm2d(dims))


def downsample_of(kind: str, in_dims: int, out_dims: int) -> nn.Module:
    """What leads into the next stage, of the same kinds."""
    if kind == 'convolutional':
        return nn.Sequential(nn.Conv2d(in_dims, out_dims, 3, 2, 1), BatchNorm2d(out_dims))
    return nn.Sequential(BatchNorm2d(in_dims), PatchConv(in_dims, out_dims, patch_size=2))


def _arch(dims: Sequence[int], depths: Sequence[int], **stage: Any) -> list[dict[str, Any]]:
    return [dict(embed_dims=d, num_heads=d // 32, blocks=kind * depth, topk=topk, **stage)
            for d, kind, depth, topk in zip(dims, 'RRRE', depths, (1, 4, 16, 1))]


@MODELS.register_module()
class BiFormer(Pyramid):
    """BiFormer backbone: bi-level routing attention in three stages, full attention in the last.

    The same weights serve any number of windows: the published models have 7 along each side on ImageNet, 16 on COCO
    and 8 on ADE20K.

    Args:
        arch: 'tiny', 'small', 'base', 'stl' (the layout of Swin-T, as the authors' code has it with channels first),
            'stl-legacy' (as their first code has it: LePE of the last stage reads its input), or a list of four dicts
            with the fields of `BiFormerStage`.
        in_channels: channels of the image.
        stem: 'convolutional' has two 3 x 3 convolutions with stride 2, and one between stages; 'patch'
            embeds patches that do not overlap, completed with zeros. None is 'patch' for STL and 'convolutional'
            for the others.
        num_windows: regions along each side of the map, in all stages or each; None
            leaves what the stages say, 7 in the named architectures.
        mask_padding: leave padding out of routing attention; the published models do not (False). None
            leaves what the stages say.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        with_cp: recompute blocks in the backward pass instead of storing them.
        pyramid: `out_indices`, `frozen_stages`, `norm_eval`, `out_norm`, `cut_padding`, `recompute_mlp` and `init_cfg`
            as in `mmattn.backbones.pyramid.Pyramid`.

    Shapes:
        (B, in_channels, H, W) -> one (B, embed_dims of the stage, H / (4, 8, 16, 32), W / (4, 8, 16, 32)) per
        entry of `out_indices`; sides are rounded up.

    Raises:
        ArgumentError: unknown arch, stem or block letter, heads that do not divide the channels, out_indices or
            frozen_stages out of range.

    Example:
        >>> for x in BiFormer(arch='tiny')(torch.rand(1, 3, 200, 320)):
        ...     print(tuple(x.shape))
        (1, 64, 50, 80)
        (1, 128, 25, 40)
        (1, 256, 13, 20)
        (1, 512, 7, 10)
    """

    arch_zoo = {
        'tiny': _arch((64, 128, 256, 512), (2, 2, 8, 2)),
        'small': _arch((64, 128, 256, 512), (4, 4, 18, 4)),
        'base': _arch((96, 192, 384, 768), (4, 4, 18, 4)),
        'stl': _arch((96, 192, 384, 768), (2, 2, 6, 2), mlp_ratio=4.0, pos_kernel_size=0, lepe_of='value',
                     routing=dict(pad='after')),
        'stl-legacy': _arch((96, 192, 384, 768), (2, 2, 6, 2), mlp_ratio=4.0, pos_kernel_size=0),
    }
    translate = staticmethod(biformer.translate)

    def __init__(self, arch: str | Sequence[Mapping[str, Any]] = 'tiny', in_channels: int = 3, *,
                 stem: str | None = None, num_windows: int | Sequence[int] | None = None,
                 mask_padding: bool | None = None, drop_path_rate: float = 0.0, with_cp: bool = False,
                 **pyramid: Any) -> None:
        specs = resolve_stages(arch, self.arch_zoo, BiFormerStage, num_windows=num_windows)
        for spec in specs:
            if spec.routing is not None and not isinstance(spec.routing, Mapping):
                raise ArgumentError(f'routing={spec.routing!r} must be a dict of arguments')
            if mask_padding is not None:
                spec.routing = {**(spec.routing or {}), 'mask_padding': mask_padding}
        stem = stem or ('patch' if arch in ('stl', 'stl-legacy') else 'convolutional')
        dims = [spec.embed_dims for spec in specs]
        rates = iter(linear_rates(drop_path_rate, sum(len(spec.blocks) for spec in specs)))
        super().__init__(in_channels, Layout(
            stem=stem_of(stem, in_channels, dims[0]),
            stages=[Stage([Block(spec, kind, drop_path_rate=next(rates)) for kind in spec.blocks], with_cp)
                    for spec in specs],
            downsamples=[downsample_of(stem, *pair) for pair in pairwise(dims)],
            dims=dims, norm_layer=Norm), **pyramid)
        init_linear(self)
