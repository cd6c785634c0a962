"""DeBiFormer: vision transformer with deformable agent bi-level routing attention (Long et al., ACCV 2024,
arXiv:2410.08582)."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from mmattn.backbones.biformer import downsample_of, stem_of
from mmattn.backbones.pyramid import Layout, Pyramid, Stage, linear_rates, resolve_stages
from mmattn.checkpoint import debiformer
from mmattn.checks import check_at_least, check_ratio
from mmattn.errors import ArgumentError
from mmattn.layers import (
    BiLevelRoutingAttention,
    DeformableBiLevelRoutingAttention,
    DepthwiseMLP,
    DropPath,
    LayerNorm2d,
)
from mmattn.registry import MODELS

Norm = partial(LayerNorm2d, eps=1e-6)


@dataclass
class DeBiFormerStage:
    """One stage of DeBiFormer.

    Args:
        embed_dims: channels.
        num_heads: heads of attention.
        blocks: the two attentions of each block, a letter each: R bi-level routing attention, then that of agents; D
            that of agents twice.
        topk: windows that a window of R attends to.
        agent_topk: windows that a window of agents attends to.
        num_windows: windows along each side of the map, of both.
        stride, offset_groups, offset_kernel_size, table_size, agent_mlp_ratio: of agents, see
            `DeformableBiLevelRoutingAttention`.
        mlp_ratio: hidden channels of the MLPs / channels.
    """
    embed_dims: int
    num_heads: int
    blocks: str
    topk: int = 4
    agent_topk: int = 4
    num_windows: int = 7
    stride: int = 1
    offset_groups: int = 1
    offset_kernel_size: int = 3
    table_size: int | Sequence[int] = 14
    agent_mlp_ratio: float = 3.0
    mlp_ratio: float = 3.0

    def attentions(self, kind: str) -> tuple[nn.Module, nn.Module]:
        """The layers that a letter stands for."""
        if kind == 'R':
            return BiLevelRoutingAttention(self.embed_dims, self.num_heads, num_windows=self.num_windows,
                                           topk=self.topk), self._agents()
        if kind == 'D':
            return self._agents(), self._agents()
        raise ArgumentError(f'block {kind!r} in blocks={self.blocks!r} is unknown; use R (routing attention, then '
                            'agents) or D (agents twice)')

    def _agents(self) -> nn.Module:
        # the layer would name them topk and mlp_ratio, which are others here
        check_at_least('agent_topk', self.agent_topk, 1)
        check_ratio('agent_mlp_ratio', self.agent_mlp_ratio, self.embed_dims)
        return DeformableBiLevelRoutingAttention(
            self.embed_dims, self.num_heads, offset_groups=self.offset_groups, stride=self.stride,
            offset_kernel_size=self.offset_kernel_size, num_windows=self.num_windows, topk=self.agent_topk,
            mlp_ratio=self.agent_mlp_ratio, table_size=self.table_size)


class Block(nn.Module):
    """Twice: a depth-wise convolution that encodes positions, attention and MLP, each added to what it reads, the last
    two behind a norm and under stochastic depth."""

    def __init__(self, stage: DeBiFormerStage, kind: str, *, drop_path_rate: float) -> None:
        super().__init__()
        dims = stage.embed_dims
        self.attn1, self.attn2 = stage.attentions(kind)
        self.pos_embed1, self.pos_embed2 = (nn.Conv2d(dims, dims, 3, padding=1, groups=dims) for _ in range(2))
        self.mlp1, self.mlp2 = (DepthwiseMLP(dims, stage.mlp_ratio) for _ in range(2))
        self.norm1, self.norm2, self.norm3, self.norm4 = (Norm(dims) for _ in range(4))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed1(x)
        x = x + self.drop_path(self.attn1(self.norm1(x)))
        x = x + self.drop_path(self.mlp1(x, self.norm2))
        x = x + self.pos_embed2(x)
        x = x + self.drop_path(self.attn2(self.norm3(x)))
        return x + self.drop_path(self.mlp2(x, self.norm4))


def _arch(dims: Sequence[int], depths: Sequence[int], groups: Sequence[int],
          last_ratios: tuple[float, float] = (3.0, 3.0)) -> list[dict[str, Any]]:
    """Stages; `last_ratios` are the MLP ratios of the last one, of its blocks and of its agents."""
    ratios = [(3.0, 3.0)] * 3 + [last_ratios]
    return [dict(embed_dims=dims[i], num_heads=dims[i] // 32, blocks='RRRD'[i] * depths[i], topk=(1, 4, 16, 1)[i],
                 agent_topk=(4, 8, 16, 49)[i], stride=8 >> i, offset_groups=groups[i],
                 offset_kernel_size=(9, 7, 5, 3)[i], table_size=56 >> i, mlp_ratio=ratios[i][0],
                 agent_mlp_ratio=ratios[i][1]) for i in range(4)]


@MODELS.register_module()
class DeBiFormer(Pyramid):
    """DeBiFormer backbone: bi-level routing attention and deformable agents in turn, agents alone in the last stage.

    The same weights serve any number of windows: the published models have 7 along each side on ImageNet, 8 on ADE20K,
    and 8, 16 or 32 on COCO, with the size of the model.

    Args:
        arch: 'tiny', 'small', 'base', or a list of four dicts with the fields of `DeBiFormerStage`.
        in_channels: channels of the image.
        num_windows: windows along each side of the map, in all stages or each; None leaves what the stages say, 7 in
            the named architectures.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        with_cp: recompute blocks in the backward pass instead of storing them.
        pyramid: `out_indices`, `frozen_stages`, `norm_eval`, `out_norm`, `cut_padding`, `recompute_mlp` and `init_cfg`
            as in `mmattn.backbones.pyramid.Pyramid`.

    Shapes:
        (B, in_channels, H, W) -> one (B, embed_dims of the stage, H / (4, 8, 16, 32), W / (4, 8, 16, 32)) per
        entry of `out_indices`; sides are rounded up.

    Raises:
        ArgumentError: unknown arch or block letter, heads that do not divide the channels, out_indices or
            frozen_stages out of range.

    Example:
        >>> for x in DeBiFormer(arch='tiny')(torch.rand(1, 3, 200, 320)):
        ...     print(tuple(x.shape))
        (1, 64, 50, 80)
        (1, 128, 25, 40)
        (1, 256, 13, 20)
        (1, 512, 7, 10)
    """

    arch_zoo = {
        'tiny': _arch((64, 128, 256, 512), (1, 1, 4, 1), (1, 2, 4, 8)),
        'small': _arch((64, 128, 256, 512), (2, 2, 9, 3), (1, 2, 4, 8), last_ratios=(2.0, 1.0)),
        'base': _arch((96, 192, 384, 768), (2, 2, 9, 2), (1, 2, 3, 6)),
    }
    translate = staticmethod(debiformer.translate)

    def __init__(self, arch: str | Sequence[Mapping[str, Any]] = 'tiny', in_channels: int = 3, *,
                 num_windows: int | Sequence[int] | None = None, drop_path_rate: float = 0.0, with_cp: bool = False,
                 **pyramid: Any) -> None:
        specs = resolve_stages(arch, self.arch_zoo, DeBiFormerStage, num_windows=num_windows)
        dims = [spec.embed_dims for spec in specs]
        rates = iter(linear_rates(drop_path_rate, sum(len(spec.blocks) for spec in specs)))
        super().__init__(in_channels, Layout(
            stem=stem_of('convolutional', in_channels, dims[0]),
            stages=[Stage([Block(spec, kind, drop_path_rate=next(rates)) for kind in spec.blocks], with_cp)
                    for spec in specs],
            downsamples=[downsample_of('convolutional', *pair) for pair in pairwise(dims)],
            dims=dims), **pyramid)
