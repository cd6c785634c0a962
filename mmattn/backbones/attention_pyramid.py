from collections.abc import Mapping, Sequence
from itertools import cycle, islice, pairwise

from torch import nn

from mmattn.backbones.pyramid import PatchConv, Pyramid, Stage, check_per_stage, init_linear, linear_rates
from mmattn.checks import check_at_least, check_each
from mmattn.layers import AttentionBlock, LayerNorm2d
from mmattn.registry import MODELS


def are_layers(attention):
    """Whether it is a list of descriptions of layers."""
    return isinstance(attention, Sequence) and all(isinstance(one, Mapping) for one in attention)


@MODELS.register_module()
class AttentionPyramid(Pyramid):
    """The layout of Swin-T (Liu et al., ICCV 2021) with any attention, for networks of which only the attention
    differs: patches of 4 x 4 pixels, four stages with patches of 2 x 2 between them, blocks of attention and MLP.

    Args:
        attention (dict | Sequence[dict] | Sequence[Sequence[dict]]): a layer for all blocks; or the layers that blocks
            of a stage have in turn; or these for each stage. See `mmattn.layers.block.build_attention`; the heads are
            those of the stage unless `num_heads` says otherwise.
        embed_dims (Sequence[int]): channels of each stage.
        depths (Sequence[int]): blocks of each stage.
        num_heads (Sequence[int]): heads of each stage.
        in_channels (int): channels of the image.
        mlp_ratio (float): hidden channels of the MLPs / channels.
        drop_path_rate (float): stochastic depth of the last block, rising linearly from 0 at the first.
        with_cp (bool): recompute blocks in the backward pass instead of storing them.
        pyramid: `out_indices`, `frozen_stages`, `norm_eval`, `out_norm`, `cut_padding` and `init_cfg` as in
            `mmattn.backbones.pyramid.Pyramid`.

    Shapes:
        (B, in_channels, H, W) -> one (B, embed_dims of the stage, H / (4, 8, 16, 32), W / (4, 8, 16, 32)) per
        entry of `out_indices`; sides are rounded up.

    Raises:
        ValueError: an attention that is unknown or refuses its arguments, another number of attentions, depths or heads
            than stages, out_indices or frozen_stages out of range.

    Example:
        >>> attention = [dict(type='LocalAttention'), dict(type='DeformableAttention')]
        >>> for x in AttentionPyramid(attention)(torch.rand(1, 3, 200, 320)):
        ...     print(tuple(x.shape))
        (1, 96, 50, 80)
        (1, 192, 25, 40)
        (1, 384, 13, 20)
        (1, 768, 7, 10)
    """

    def __init__(self, attention, embed_dims=(96, 192, 384, 768), depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24),
                 in_channels=3, mlp_ratio=4.0, drop_path_rate=0.0, with_cp=False, **pyramid):
        check_at_least('in_channels', in_channels, 1)
        check_each('embed_dims', embed_dims, 1)
        check_each('depths', depths, 0)
        attentions = [attention] if isinstance(attention, Mapping) else attention
        if are_layers(attentions):
            attentions = [attentions] * len(embed_dims)
        for name, values in (('attention', attentions), ('depths', depths), ('num_heads', num_heads)):
            check_per_stage(name, values, len(embed_dims))
        if not all(layers and are_layers(layers) for layers in attentions):
            raise ValueError(f'attention={attention!r} has a stage without layers')
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        stages = [
            Stage([AttentionBlock(dims, {'num_heads': heads, **one}, mlp_ratio=mlp_ratio, drop_path_rate=next(rates))
                   for one in islice(cycle(layers), depth)], with_cp)
            for dims, depth, heads, layers in zip(embed_dims, depths, num_heads, attentions)]
        super().__init__(
            in_channels=in_channels,
            stem=nn.Sequential(PatchConv(in_channels, embed_dims[0], 4), LayerNorm2d(embed_dims[0])),
            stages=stages,
            downsamples=[nn.Sequential(LayerNorm2d(a), PatchConv(a, b, 2)) for a, b in pairwise(embed_dims)],
            dims=embed_dims, **pyramid)
        init_linear(self)
