from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from mmattn.checks import check_choice, check_divides, check_map
from mmattn.layers.attended import Attended, centers, keys_of
from mmattn.layers.describe import arguments_repr
from mmattn.layers.position import LocallyEnhancedPositionEncoding
from mmattn.ops.attention import attention


class Attention(nn.Module):
    """Multi-head attention of every pixel to every pixel (Vaswani et al., NeurIPS 2017, eq. 1), with locally enhanced
    position encoding (LePE; CSWin, Dong et al., CVPR 2022, eq. 9).

    For pixel i of a map x, in each head::

        z_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j          q, k, v = W_qkv x, cut into h heads of d = C / h
        y   = W_proj (concat of the heads' z + LePE(v))         LePE: a depth-wise convolution

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        lepe_kernel_size: of the depth-wise convolution, odd; 0 for none.
        lepe_of: what it reads: 'value', or 'input' as in the published BiFormer.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads do not divide the channels; unknown `lepe_of`; an even kernel.
    """

    def __init__(self, embed_dims: int, num_heads: int = 8, *, qkv_bias: bool = False,
                 lepe_kernel_size: int = 0, lepe_of: str = 'value') -> None:
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_choice('lepe_of', lepe_of, ('value', 'input'))
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.lepe_of = lepe_of
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.lepe = LocallyEnhancedPositionEncoding(embed_dims, lepe_kernel_size) if lepe_kernel_size else None

    def projections(self, x: Tensor) -> Tensor:
        """Queries, keys and values (3, B, h, H, W, d) of a map (B, C, H, W)."""
        return rearrange(self.qkv(x.permute(0, 2, 3, 1)), 'b y x (three h d) -> three b h y x d', three=3,
                         h=self.num_heads)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.proj.weight.dtype)
        q, k, v = self.projections(x).flatten(3, 4)
        out = rearrange(attention(q, k, v), 'b h (y x) d -> b y x (h d)', y=x.shape[2])
        if self.lepe:
            values = rearrange(v, 'b h (y x) d -> b y x (h d)', y=x.shape[2])
            out = out + self.lepe(x.permute(0, 2, 3, 1) if self.lepe_of == 'input' else values)
        return self.proj(out).permute(0, 3, 1, 2)

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`."""
        q, k, _ = self.projections(x)[:, 0]
        positions = centers(x.shape[2:], x.device).flatten(0, 1)
        return Attended([keys_of(q[:, row, column], k.flatten(1, 2), positions) for row, column in pixels])

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads')
