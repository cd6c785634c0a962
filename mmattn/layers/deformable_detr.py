import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from mmattn.checks import check_at_least, check_divides, check_map, check_rate, check_size
from mmattn.layers.attended import Attended, Keys, to_pixels
from mmattn.layers.describe import arguments_repr
from mmattn.layers.precision import in_float32
from mmattn.ops.deformable import point_attention
from mmattn.ops.dispatch import are_symbols
from mmattn.ops.grid import key_grid


class DeformableDETRAttention(nn.Module):
    """Single-scale attention of Deformable DETR (Zhu et al., ICLR 2021, eq. 2), which the DAT paper compares with:
    every query predicts points of its own and their weights; there is no dot product with keys.

    For pixel i of a map x, in each head, over P points::

        z_i = sum_p A_ip v(r_i + o_ip)          v = W_v x, read bilinearly
        y   = W_out (concat of the heads' z)

    r_i: reference point of the pixel. o_i = W_off x_i: offsets of its points. A_i = softmax over p of W_att x_i.

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C.
        num_points: points P per query and head.
        map_size: map size, (height, width) or one side, of the stored reference points. The authors' checkpoints hold
            them as a parameter that does not train; maps of other sizes use the grid of the 'dat_pp' convention.
        attn_drop_rate: dropout of the weights.
        drop_rate: dropout of the output.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads do not divide the channels.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, num_points: int = 4,
                 map_size: int | Sequence[int] = 14, attn_drop_rate: float = 0.0, drop_rate: float = 0.0) -> None:
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_at_least('num_points', num_points, 1)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.num_points = num_points
        self.map_size = map_size
        self.proj_off = nn.Linear(embed_dims, num_heads * num_points * 2)
        self.proj_att = nn.Linear(embed_dims, num_heads * num_points)
        self.proj_v = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_out = nn.Conv2d(embed_dims, embed_dims, 1)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.drop = nn.Dropout(drop_rate)
        self.reference: Tensor
        self.register_buffer('reference', key_grid(check_size('map_size', map_size), 'dat_pp'))
        self._init_offsets()

    def _init_offsets(self) -> None:
        """Head i looks in direction i of a circle, its points 1, 2, ... steps away (section 4.1)."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1.0, self.num_points + 1)
        nn.init.zeros_(self.proj_off.weight)
        nn.init.zeros_(self.proj_att.weight)
        nn.init.zeros_(self.proj_att.bias)
        with torch.no_grad():
            self.proj_off.bias.copy_((direction[:, None] * steps[:, None]).flatten())

    def sampling_points(self, x: Tensor) -> Tensor:
        """Where each query looks: (B, h, H, W, P, 2), (y, x) normalised, at least float32."""
        offsets = in_float32(self.proj_off, x.permute(0, 2, 3, 1))
        offsets = rearrange(offsets, 'b y x (h p two) -> b h y x p two', h=self.num_heads, two=2)
        reference = self.reference
        if are_symbols(x.shape) or reference.shape[:2] != x.shape[2:]:
            reference = key_grid(x.shape[2:], 'dat_pp', x.device)
        return reference.to(offsets.dtype)[:, :, None] + offsets

    def point_weights(self, x: Tensor) -> Tensor:
        """How much each point of a query counts: (B, h, H, W, P)."""
        logits = self.proj_att(x.permute(0, 2, 3, 1))
        return rearrange(logits, 'b y x (h p) -> b h y x p', h=self.num_heads).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.proj_v.weight.dtype)
        weights = self.attn_drop(self.point_weights(x))
        values = rearrange(self.proj_v(x), 'b (h d) y x -> b h d y x', h=self.num_heads)
        out = point_attention(values, self.sampling_points(x), weights)
        return self.drop(self.proj_out(rearrange(out, 'b h d y x -> b (h d) y x')))

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`; the points of a query are its keys."""
        positions, weights = to_pixels(self.sampling_points(x)[0], x.shape[2:]), self.point_weights(x)[0].float()
        return Attended([Keys(positions[:, row, column], weights[:, row, column]) for row, column in pixels])

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'num_points')
