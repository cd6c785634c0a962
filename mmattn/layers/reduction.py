from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mmattn.checks import check_at_least, check_divides, check_map, check_rate
from mmattn.layers.attended import Attended, centers, keys_of
from mmattn.layers.describe import arguments_repr
from mmattn.layers.norm import LayerNorm2d
from mmattn.ops.attention import attention


class SpatialReductionAttention(nn.Module):
    """Attention of every pixel to a map shrunk by a strided convolution (PVT; Wang et al., ICCV 2021, eqs. 1 to 4).

    For pixel i, in each head, over the pixels j of the small map::

        z_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j      q = W_q x;  k, v = W_kv SR(x)
        SR(x) = LayerNorm(convolution of x with kernel and stride R)        R: sr_ratio; SR(x) = x where it is 1

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C.
        sr_ratio: the map shrinks by this factor along each side; 1 leaves it. Rows and columns that do not fill a cell
            are left out, as in the published models, unless there is no whole cell: then zeros complete it.
        attn_drop_rate: dropout of attention weights.
        drop_rate: dropout of the output.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads do not divide the channels; sr_ratio below 1.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, sr_ratio: int = 1,
                 attn_drop_rate: float = 0.0, drop_rate: float = 0.0) -> None:
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_at_least('sr_ratio', sr_ratio, 1)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.attn_drop_rate = attn_drop_rate
        self.q = nn.Conv2d(embed_dims, embed_dims, 1)
        self.kv = nn.Conv2d(embed_dims, 2 * embed_dims, 1)
        self.proj = nn.Conv2d(embed_dims, embed_dims, 1)
        self.drop = nn.Dropout(drop_rate)
        self.reduction = nn.Sequential(nn.Conv2d(embed_dims, embed_dims, sr_ratio, sr_ratio),
                                       LayerNorm2d(embed_dims)) if sr_ratio > 1 else nn.Identity()

    def projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, h, H, W, d), keys and values (B, h, Hk, Wk, d) of a map (B, C, H, W)."""
        height, width = x.shape[2:]
        small = self.reduction(F.pad(x, (0, max(self.sr_ratio - width, 0), 0, max(self.sr_ratio - height, 0))))
        q = rearrange(self.q(x), 'b (h d) y x -> b h y x d', h=self.num_heads)
        k, v = rearrange(self.kv(small), 'b (two h d) y x -> two b h y x d', two=2, h=self.num_heads)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.proj.weight.dtype)
        q, k, v = (t.flatten(2, 3) for t in self.projections(x))
        out = attention(q, k, v, dropout=self.attn_drop_rate if self.training else 0.0)
        return self.drop(self.proj(rearrange(out, 'b h (y x) d -> b (h d) y x', y=x.shape[2])))

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`; a key is where the middle of its cell is."""
        q, k = (t[0] for t in self.projections(x)[:2])
        positions = (centers(k.shape[1:3], x.device) * self.sr_ratio).flatten(0, 1)
        return Attended([keys_of(q[:, row, column], k.flatten(1, 2), positions) for row, column in pixels])

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'sr_ratio')
