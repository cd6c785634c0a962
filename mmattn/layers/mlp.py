import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmattn.checks import check_at_least, check_rate, check_ratio
from mmattn.layers.describe import arguments_repr
from mmattn.ops.dispatch import are_symbols

BLOCK_HIDDEN = 2 ** 20      # hidden numbers at once on the CPU, so that they stay in its cache


class MLP(nn.Module):
    """Two linear maps with GELU between, on every pixel of a (B, C, H, W) map::

        y = W_2 GELU(W_1 x)

    Hidden channels are several times as many as the map has. They can be made again in the backward pass instead of
    being kept: less memory, and on a CPU, where they are made for a few rows at a time, less time too.

    Args:
        embed_dims: channels C in and out.
        mlp_ratio: hidden channels / C.
        drop_rate: dropout after each linear map.
        recompute: make hidden channels again in the backward pass; None to do so on the CPU only.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: a ratio that leaves no hidden channels.
    """

    def __init__(self, embed_dims: int, mlp_ratio: float = 4.0, *, drop_rate: float = 0.0,
                 recompute: bool | None = None) -> None:
        super().__init__()
        check_at_least('embed_dims', embed_dims, 1)
        check_ratio('mlp_ratio', mlp_ratio, embed_dims)
        check_rate('drop_rate', drop_rate)
        hidden = int(embed_dims * mlp_ratio)
        self.embed_dims = embed_dims
        self.mlp_ratio = mlp_ratio
        self.recompute = recompute
        self.fc1 = nn.Linear(embed_dims, hidden)
        self.fc2 = nn.Linear(hidden, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """`norm`, a layer norm, comes before; where hidden channels are not kept, nor is what it gives."""
        if not self._recomputes(x):
            return self._feed_forward(x, norm).permute(0, 3, 1, 2)
        batch, _, height, width = x.shape
        rows = max(1, BLOCK_HIDDEN // max(1, batch * width * self.fc1.out_features)) if x.is_cpu else height
        parts = [checkpoint(self._feed_forward, part, norm, use_reentrant=False, preserve_rng_state=self.drop.p > 0)
                 for part in x.split(rows, 2)]
        return torch.cat(parts, 1).permute(0, 3, 1, 2)

    def _recomputes(self, x: Tensor) -> bool:
        # a graph would keep the number of parts, whatever map it gets
        if torch.jit.is_tracing() or are_symbols(x.shape):      # type: ignore[attr-defined]
            return False
        return x.is_cpu if self.recompute is None else self.recompute

    def _feed_forward(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """(B, C, H, W) -> (B, H, W, C)."""
        x = (norm(x) if norm else x).permute(0, 2, 3, 1)
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'mlp_ratio')


class DepthwiseMLP(MLP):
    """MLP with a 3 x 3 depth-wise convolution before GELU (DAT++, section 3.4)::

        y = W_2 GELU(u + convolution of u)      u = W_1 x; without `residual`, the convolution alone

    Args:
        embed_dims, mlp_ratio, drop_rate: as in `MLP`.
        residual: add the convolution to what it reads, as DAT++ does.
        recompute: make hidden channels again in the backward pass; None not to.
    """

    def __init__(self, embed_dims: int, mlp_ratio: float = 4.0, *, drop_rate: float = 0.0, residual: bool = True,
                 recompute: bool | None = None) -> None:
        super().__init__(embed_dims, mlp_ratio, drop_rate=drop_rate, recompute=recompute)
        hidden = self.fc1.out_features
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.residual = residual

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        if not self.recompute:
            return self._feed_forward(x, norm).permute(0, 3, 1, 2)
        out: Tensor = checkpoint(self._feed_forward, x, norm, use_reentrant=False)
        return out.permute(0, 3, 1, 2)

    def _feed_forward(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        x = self.fc1((norm(x) if norm else x).permute(0, 2, 3, 1))
        y = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.drop(self.fc2(self.drop(F.gelu(x + y if self.residual else y))))
