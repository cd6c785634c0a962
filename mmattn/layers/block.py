from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmattn.checks import check_at_least, check_map, check_number, check_rate
from mmattn.errors import ArgumentError
from mmattn.layers.agents import DeformableBiLevelRoutingAttention
from mmattn.layers.attention import Attention
from mmattn.layers.deformable import DeformableAttention
from mmattn.layers.deformable_detr import DeformableDETRAttention
from mmattn.layers.drop import DropPath
from mmattn.layers.grouped import LongDistanceAttention, ShortDistanceAttention
from mmattn.layers.mlp import MLP
from mmattn.layers.neighborhood import NeighborhoodAttention
from mmattn.layers.norm import LayerNorm2d
from mmattn.layers.reduction import SpatialReductionAttention
from mmattn.layers.routing import BiLevelRoutingAttention
from mmattn.layers.scale import layer_scale as make_layer_scale
from mmattn.layers.window import LocalAttention, ShiftedWindowAttention

ATTENTIONS: dict[str, type[nn.Module]] = {layer.__name__: layer for layer in (
    Attention, BiLevelRoutingAttention, DeformableAttention, DeformableBiLevelRoutingAttention,
    DeformableDETRAttention, LocalAttention, LongDistanceAttention, NeighborhoodAttention, ShiftedWindowAttention,
    ShortDistanceAttention, SpatialReductionAttention)}


def build_attention(embed_dims: int, attention: Mapping[str, Any]) -> nn.Module:
    """A layer from its description.

    Args:
        embed_dims: channels.
        attention: `type`, a key of `ATTENTIONS` (with or without 'mmattn.' before it) or the class, and the layer's
            arguments without `embed_dims`.

    Raises:
        ArgumentError: the type is unknown, or the layer refuses its arguments.
    """
    if not isinstance(attention, Mapping):
        raise ArgumentError(f'attention={attention!r} is no dict of a layer\'s type and arguments')
    arguments = dict(attention)
    kind = arguments.pop('type', None)
    name = str(getattr(kind, '__name__', kind))
    name = name.rpartition('.')[2] if name.startswith('mmattn.') else name
    if name not in ATTENTIONS or (isinstance(kind, type) and kind is not ATTENTIONS[name]):
        raise ArgumentError(f'attention type={name!r} is unknown; choose one of {", ".join(ATTENTIONS)}')
    return ATTENTIONS[name](embed_dims, **arguments)


class AttentionBlock(nn.Module):
    """Attention layers one after another, then an MLP if there is one, each of them as::

        x = x + DropPath(scale * branch(LayerNorm(x)))

    With `layer_scale` close to zero it starts as the identity, so that it can be added to a trained network.

    Args:
        in_channels: channels C.
        attention: the layer, or the layers, see `build_attention`.
        embed_dims: channels of attention, projected from C and back to it; None for C, not projected.
        mlp_ratio: hidden channels of the MLP / channels; 0 for no MLP.
        drop_path_rate: stochastic depth of every branch.
        layer_scale: first value of a factor per channel on every branch; 0 for none.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: no attention, a layer that is no attention, or arguments that it refuses.

    Example:
        >>> block = AttentionBlock(64, dict(type='BiLevelRoutingAttention', num_heads=2), mlp_ratio=4.0)
        >>> block(torch.rand(1, 64, 20, 31)).shape
        torch.Size([1, 64, 20, 31])
    """

    def __init__(self, in_channels: int, attention: Mapping[str, Any] | Sequence[Mapping[str, Any]],
                 *, embed_dims: int | None = None, mlp_ratio: float = 0.0, drop_path_rate: float = 0.0,
                 layer_scale: float = 0.0) -> None:
        super().__init__()
        attentions = [attention] if isinstance(attention, Mapping) else attention
        if not attentions or not isinstance(attentions, Sequence):
            raise ArgumentError(f'attention={attention!r} has no layer')
        check_at_least('in_channels', in_channels, 1)
        if embed_dims is not None:
            check_at_least('embed_dims', embed_dims, 1)
        check_number('mlp_ratio', mlp_ratio, 0)
        check_rate('drop_path_rate', drop_path_rate)
        self.in_channels = in_channels
        branches = [_projected(in_channels, embed_dims, one) for one in attentions]
        if mlp_ratio:
            branches.append(MLP(in_channels, mlp_ratio))
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList(LayerNorm2d(in_channels) for _ in branches)
        self.scales = nn.ModuleList(make_layer_scale(in_channels, layer_scale) for _ in branches)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.in_channels, next(self.norms.parameters()).dtype)
        for branch, norm, scale in zip(self.branches, self.norms, self.scales):
            x = x + self.drop_path(scale(branch(norm(x))))
        return x

    def extra_repr(self) -> str:
        return f'in_channels={self.in_channels}'


def _projected(in_channels: int, embed_dims: int | None, attention: Mapping[str, Any]) -> nn.Module:
    if embed_dims is None:
        return build_attention(in_channels, attention)
    return nn.Sequential(nn.Conv2d(in_channels, embed_dims, 1), build_attention(embed_dims, attention),
                         nn.Conv2d(embed_dims, in_channels, 1))
