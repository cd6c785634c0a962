from collections.abc import Mapping, Sequence
from itertools import cycle, islice, pairwise
from typing import Any

from torch import nn

from mmattn.backbones.pyramid import Layout, PatchConv, Pyramid, Stage, check_per_stage, init_linear, linear_rates
from mmattn.checks import check_at_least, check_each
from mmattn.errors import ArgumentError
from mmattn.layers import AttentionBlock, LayerNorm2d
from mmattn.registry import MODELS

Layer = Mapping[str, Any]       # the description of one


def are_layers(attention: object) -> bool:
    """Whether it is a list of descriptions of layers."""
    return isinstance(attention, Sequence) and all(isinstance(one, Mapping) for one in attention)


def heads_of(embed_dims: int) -> int:
    """So many heads that each has 32 channels, as in Swin-T; fewer where these do not divide the channels."""
    return next(heads for heads in range(max(embed_dims // 32, 1), 0, -1) if embed_dims % heads == 0)


@MODELS.register_module()
class AttentionPyramid(Pyramid):
    """The layout of Swin-T (Liu et al., ICCV 2021) with any attention, for networks of which only the attention
    differs: patches of 4 x 4 pixels, four stages with patches of 2 x 2 between them, blocks of attention and MLP.

    Args:
        attention: a layer for all blocks; or the layers that blocks
            of a stage have in turn; or these for each stage. See `mmattn.layers.block.build_attention`; the heads are
            those of the stage unless `num_heads` says otherwise.
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: heads of each stage; None gives each head 32 channels, or as few more as divide `embed_dims`.
        in_channels: channels of the image.
        mlp_ratio: hidden channels of the MLPs / channels.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        with_cp: recompute blocks in the backward pass instead of storing them.
        pyramid: `out_indices`, `frozen_stages`, `norm_eval`, `out_norm`, `cut_padding`, `recompute_mlp` and `init_cfg`
            as in `mmattn.backbones.pyramid.Pyramid`.

    Shapes:
        (B, in_channels, H, W) -> one (B, embed_dims of the stage, H / (4, 8, 16, 32), W / (4, 8, 16, 32)) per
        entry of `out_indices`; sides are rounded up.

    Raises:
        ArgumentError: an attention that is unknown or refuses its arguments, another number of attentions, depths or
            heads than stages, out_indices or frozen_stages out of range.

    Example:
        >>> attention = [dict(type='LocalAttention'), dict(type='DeformableAttention')]
        >>> for x in AttentionPyramid(attention)(torch.rand(1, 3, 200, 320)):
        ...     print(tuple(x.shape))
        (1, 96, 50, 80)
        (1, 192, 25, 40)
        (1, 384, 13, 20)
        (1, 768, 7, 10)
    """

    def __init__(self, attention: Layer | Sequence[Layer] | Sequence[Sequence[Layer]],
                 embed_dims: Sequence[int] = (96, 192, 384, 768), *, depths: Sequence[int] = (2, 2, 6, 2),
                 num_heads: Sequence[int] | None = None, in_channels: int = 3, mlp_ratio: float = 4.0,
                 drop_path_rate: float = 0.0, with_cp: bool = False, **pyramid: Any) -> None:
        check_at_least('in_channels', in_channels, 1)
        check_each('embed_dims', embed_dims, 1)
        check_each('depths', depths, 0)
        if num_heads is None:
            num_heads = [heads_of(dims) for dims in embed_dims]
        attentions: Any = [attention] if isinstance(attention, Mapping) else attention
        if are_layers(attentions):
            attentions = [attentions] * len(embed_dims)
        for name, values in (('attention', attentions), ('depths', depths), ('num_heads', num_heads)):
            check_per_stage(name, values, len(embed_dims))
        if not all(layers and are_layers(layers) for layers in attentions):
            raise ArgumentError(f'attention={attention!r} has a stage without layers')
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        stages = [
            Stage([AttentionBlock(dims, {'num_heads': heads, **one}, mlp_ratio=mlp_ratio, drop_path_rate=next(rates))
                   for one in islice(cycle(layers), depth)], with_cp)
            for dims, depth, heads, layers in zip(embed_dims, depths, num_heads, attentions)]
        super().__init__(in_channels, Layout(
            stem=nn.Sequential(PatchConv(in_channels, embed_dims[0], patch_size=4), LayerNorm2d(embed_dims[0])),
            stages=stages,
            downsamples=[nn.Sequential(LayerNorm2d(a), PatchConv(a, b, patch_size=2)) for a, b in pairwise(embed_dims)],
            dims=embed_dims), **pyramid)
        init_linear(self)
