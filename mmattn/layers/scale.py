import torch
from torch import Tensor, nn

from mmattn.checks import check_at_least, check_number


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al., ICCV 2021, eq. 4).

    Args:
        embed_dims: channels C of the (B, C, H, W) map.
        init_value: the factors at the start.
    """

    def __init__(self, embed_dims: int, init_value: float = 1e-5) -> None:
        super().__init__()
        check_at_least('embed_dims', embed_dims, 1)
        check_number('init_value', init_value)
        self.embed_dims = embed_dims
        self.gamma = nn.Parameter(torch.full((embed_dims,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma[:, None, None]

    def extra_repr(self) -> str:
        return f'embed_dims={self.embed_dims}'


def layer_scale(embed_dims: int, init_value: float) -> nn.Module:
    """A `LayerScale`, or nothing where `init_value` is 0."""
    check_number('layer_scale', init_value, 0)
    return LayerScale(embed_dims, init_value) if init_value > 0 else nn.Identity()
