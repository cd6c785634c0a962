"""Vision Transformer with Deformable Attention (Xia et al., CVPR 2022, arXiv:2201.00520)."""
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from mmattn.backbones.pyramid import Pyramid, Stage, linear_rates, resolve_arch
from mmattn.layers import MLP, DeformableAttention, DropPath, LayerNorm2d, LocalAttention, ShiftedWindowAttention
from mmattn.registry import MODELS


@dataclass
class DATStage:
    """One stage of DAT.

    Args:
        embed_dims (int): channels.
        num_heads (int): attention heads.
        blocks (str): the attention of each block, a letter each: L local, S shifted window, D deformable.
        window_size (int): side of the windows of L and S.
        offset_groups (int): groups of D with sampling points of their own.
        offset_kernel_size (int): depth-wise kernel of the offset network of D.
        offset_range_factor (float): bound of the offsets of D in cells; negative clamps points to the image.
        stride (int): pixels per sampling point of D.
    """
    embed_dims: int
    num_heads: int
    blocks: str
    window_size: int = 7
    offset_groups: int = 1
    offset_kernel_size: int = 5
    offset_range_factor: float = 2.0
    stride: int = 1

    def attention(self, kind, table_size, **drop):
        """The attention layer that a letter stands for."""
        if kind == 'L':
            return LocalAttention(self.embed_dims, self.num_heads, self.window_size, **drop)
        if kind == 'S':
            return ShiftedWindowAttention(self.embed_dims, self.num_heads, self.window_size, **drop)
        if kind == 'D':
            return DeformableAttention(self.embed_dims, self.num_heads, self.offset_groups, self.stride,
                                       self.offset_kernel_size, self.offset_range_factor, table_size, **drop)
        raise ValueError(f'block {kind!r} in blocks={self.blocks!r} is unknown; '
                         'use L (local), S (shifted window) or D (deformable)')


def _arch(dims, heads, depth, groups):
    blocks = ('LS', 'LS', 'LD' * (depth // 2), 'LD')
    return [dict(embed_dims=d, num_heads=h, blocks=b, offset_groups=g, offset_kernel_size=k)
            for d, h, b, g, k in zip(dims, heads, blocks, (1, 1, *groups), (9, 7, 5, 3))]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); both branches under stochastic depth."""

    def __init__(self, embed_dims, attention, mlp_ratio, drop_rate, drop_path_rate):
        super().__init__()
        self.norm1 = LayerNorm2d(embed_dims)
        self.attn = attention
        self.norm2 = LayerNorm2d(embed_dims)
        self.mlp = MLP(embed_dims, mlp_ratio, drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class DAT(Pyramid):
    """DAT backbone: local and shifted-window attention first, deformable attention in the last two stages.

    Args:
        arch (str | Sequence[dict]): 'tiny', 'small', 'base', or a list of four dicts with the fields of `DATStage`.
        in_channels (int): channels of the image.
        patch_size (int): side of the patches that the stem embeds.
        mlp_ratio (float): hidden channels of an MLP / channels.
        pretrain_img_size (int): image side for which the position bias tables hold one entry per displacement;
            224 in the published models. Any image size works whatever this is.
        drop_rate (float): dropout of layer outputs.
        attn_drop_rate (float): dropout of attention weights.
        drop_path_rate (float): stochastic depth of the last block, rising linearly from 0 at the first.
        out_indices (Sequence[int]): stages to return.
        frozen_stages (int): -1 trains everything; n >= 0 freezes the stem and the first n stages.
        norm_eval (bool): keep batch norms in eval mode; DAT has none of its own.
        with_cp (bool): recompute blocks in the backward pass instead of storing them.
        out_norm (bool): layer norm on each returned map, as the published detectors and segmentors have.
        init_cfg (dict | None): initialization as MMEngine describes it.

    Shapes:
        (B, in_channels, H, W) -> one (B, embed_dims of the stage, H / (4, 8, 16, 32), W / (4, 8, 16, 32)) per
        entry of `out_indices`; sides are rounded up.

    Raises:
        ValueError: unknown arch or block letter, heads that do not divide the channels, groups that do not divide
            the heads, out_indices or frozen_stages out of range.

    Example:
        >>> for x in DAT(arch='tiny')(torch.rand(1, 3, 200, 320)):
        ...     print(tuple(x.shape))
        (1, 96, 50, 80)
        (1, 192, 25, 40)
        (1, 384, 13, 20)
        (1, 768, 7, 10)
    """

    arch_zoo = {
        'tiny': _arch((96, 192, 384, 768), (3, 6, 12, 24), depth=6, groups=(3, 6)),
        'small': _arch((96, 192, 384, 768), (3, 6, 12, 24), depth=18, groups=(3, 6)),
        'base': _arch((128, 256, 512, 1024), (4, 8, 16, 32), depth=18, groups=(4, 8)),
    }

    def __init__(self, arch='tiny', in_channels=3, patch_size=4, mlp_ratio=4.0, pretrain_img_size=224, drop_rate=0.0,
                 attn_drop_rate=0.0, drop_path_rate=0.0, out_indices=(0, 1, 2, 3), frozen_stages=-1, norm_eval=False,
                 with_cp=False, out_norm=True, init_cfg=None):
        specs = [DATStage(**stage) for stage in resolve_arch(arch, self.arch_zoo)]
        dims = [spec.embed_dims for spec in specs]
        rates = iter(linear_rates(drop_path_rate, sum(len(spec.blocks) for spec in specs)))
        stages = []
        for i, spec in enumerate(specs):
            table_size = max(pretrain_img_size // (patch_size * 2 ** i), 1)
            stages.append(Stage([
                Block(spec.embed_dims,
                      spec.attention(kind, table_size, attn_drop_rate=attn_drop_rate, drop_rate=drop_rate),
                      mlp_ratio, drop_rate, next(rates)) for kind in spec.blocks], with_cp))
        super().__init__(
            stem=Downsample(in_channels, dims[0], patch_size),
            stages=stages,
            downsamples=[Downsample(*pair, 2, bias=False) for pair in pairwise(dims)],
            dims=dims, out_indices=out_indices, frozen_stages=frozen_stages, norm_eval=norm_eval, out_norm=out_norm,
            init_cfg=init_cfg)


class Downsample(nn.Sequential):
    """Non-overlapping patches -> channels, then layer norm; the map is padded to whole patches."""

    def __init__(self, in_channels, out_channels, patch_size, bias=True):
        super().__init__(nn.Conv2d(in_channels, out_channels, patch_size, patch_size, bias=bias),
                         LayerNorm2d(out_channels))
        self.patch_size = patch_size

    def forward(self, x):
        height, width = x.shape[2:]
        bottom, right = -height % self.patch_size, -width % self.patch_size
        if bottom or right:
            x = nn.functional.pad(x, (0, right, 0, bottom))
        return super().forward(x)
