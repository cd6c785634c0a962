from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from mmattn.checks import check_at_least, check_choice, check_divides, check_map
from mmattn.layers.attended import Attended, Keys, keys_of
from mmattn.layers.describe import arguments_repr
from mmattn.layers.position import DynamicPositionBias, PositionBiasTable
from mmattn.ops.grouped import grouped_attention
from mmattn.ops.partition import ceil_div, group_views


class Groups(NamedTuple):
    """How a map is divided into groups.

    Args:
        size: (height, width) of a whole group in tokens.
        interval: pixels from one token of a group to the next; 1 for near groups.
    """
    size: tuple[int, int]
    interval: int

    def labels(self, size: Sequence[int], device: torch.device) -> Tensor:
        """(H, W) number of the group that each pixel of a map of `size` belongs to."""
        labels = torch.zeros(1, *size, 1, dtype=torch.long, device=device)
        first = 0
        for view in group_views(labels, self.size, self.interval):      # (1, Ry, Iy, Rx, Ix, gy, gx, 1)
            count = view.shape[1:5].numel()
            numbers = torch.arange(first, first + count, device=device)
            view.copy_(numbers.view(1, *view.shape[1:5], 1, 1, 1))
            first += count
        return labels[0, ..., 0]


class ShortDistanceAttention(nn.Module):
    """Short distance attention (SDA; CrossFormer, Wang et al., ICLR 2022, section 3.2): multi-head attention inside
    near groups, windows of group_size x group_size tokens, with a bias by relative position.

    For token i, in each head, over the tokens j of its group::

        z_i = sum_j softmax_j(q_i . k_j / sqrt(d) + T[p_i - p_j]) v_j       q, k, v = W_qkv x       (eq. 1)
        y   = W_proj (concat of the heads' z)

    p: place (y, x) of a token in its group, in tokens. T: bias table of the head, an entry per displacement,
    query - key; made by a network (`DynamicPositionBias`, eq. 2) or a parameter (`PositionBiasTable`).

    Any map size: border groups are smaller.

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C.
        group_size: side of a group in tokens.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        position_bias: 'dynamic', from the displacement by a network (DPB, eq. 2); 'table', a parameter per
            displacement; 'none'.
        far_groups: how far groups lie, and with them the groups of a map with a side of at most `group_size`, which has
            near groups only. 'map', as in the release of 2021 that the published models were trained with: such a map
            has near groups as wide as its shorter side. 'block', as in the code of 2023: it is one group.
        backend: what computes attention; None for the fastest that can run (see
            `mmattn.ops.grouped.grouped_attention`).

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads that do not divide the channels, an unknown position bias, kind of far groups or backend,
            sizes below 1.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, group_size: int = 7, qkv_bias: bool = True,
                 position_bias: str = 'dynamic', far_groups: str = 'map', backend: str | None = None) -> None:
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_choice('position_bias', position_bias, ('dynamic', 'table', 'none'))
        check_choice('far_groups', far_groups, ('map', 'block'))
        check_at_least('group_size', group_size, 1)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.group_size = group_size
        self.far_groups = far_groups
        self.backend = backend
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.position_bias: nn.Module | None = None
        if position_bias == 'dynamic':
            self.position_bias = DynamicPositionBias(max(embed_dims // 16, 1), num_heads)
        elif position_bias == 'table':
            self.position_bias = PositionBiasTable(group_size, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.proj.weight.dtype)
        group, interval = self.groups(x.shape[2:])
        out = grouped_attention(x.permute(0, 2, 3, 1), (self.qkv.weight, self.qkv.bias),
                                (self.proj.weight, self.proj.bias), self.table(group), self.num_heads, interval,
                                self.backend)
        return out.permute(0, 3, 1, 2)

    def groups(self, size: Sequence[int]) -> Groups:
        """The groups of a map of `size` (H, W)."""
        height, width = size
        # Asked of each side, not of the shorter one: torch.export compares the range of each with it.
        if height > self.group_size and width > self.group_size:
            return self._groups((height, width))
        shorter = min(height, width)
        return Groups((shorter, shorter) if self.far_groups == 'map' else (height, width), 1)

    def _groups(self, size: tuple[int, int]) -> Groups:
        return Groups((self.group_size, self.group_size), 1)

    def table(self, group: Sequence[int]) -> Tensor:
        """The bias table (h, 2 gy - 1, 2 gx - 1) of a group of (gy, gx) tokens, by displacement, query - key."""
        if self.position_bias is None:
            return self.proj.weight.new_zeros(self.num_heads, 2 * group[0] - 1, 2 * group[1] - 1)
        return self.position_bias(group)

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`."""
        groups = self.groups(x.shape[2:])
        labels, table = groups.labels(x.shape[2:], x.device), self.table(groups.size)
        q, k, _ = rearrange(self.qkv(x.permute(0, 2, 3, 1)), '1 y x (three h d) -> three h y x d', three=3,
                            h=self.num_heads)

        def keys(row: int, column: int) -> Keys:
            places = (labels == labels[row, column]).nonzero()                                  # (K, 2)
            away = places.new_tensor([row, column]).sub(places).div(groups.interval, rounding_mode='floor')
            y, x = (away + away.new_tensor(groups.size) - 1).unbind(-1)
            return keys_of(q[:, row, column], k[:, places[:, 0], places[:, 1]], places + 0.5, table[:, y, x])

        return Attended([keys(*pixel) for pixel in pixels], groups=labels)

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'group_size', 'far_groups')


class LongDistanceAttention(ShortDistanceAttention):
    """Long distance attention (LDA; CrossFormer, section 3.2): the same inside far groups, which take every
    `interval`-th token along each side.

    Args:
        embed_dims, num_heads, group_size, qkv_bias, position_bias, backend: as in `ShortDistanceAttention`, and the
            formula.
        interval: pixels from one token of a group to the next.
        adaptive_interval: as many as make `group_size` tokens span the longer side of the map, whatever `interval`
            says.
        far_groups: 'map': a far group reaches over the whole map and has H / interval x W / interval tokens, rounded
            up. 'block': over a block of group_size * interval pixels, with group_size x group_size tokens. Both are the
            same where one block covers the map. Small maps as in `ShortDistanceAttention`.

    Shapes, errors:
        as in `ShortDistanceAttention`.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, group_size: int = 7, interval: int = 8,
                 adaptive_interval: bool = False, **kwargs: Any) -> None:
        super().__init__(embed_dims, num_heads, group_size=group_size, **kwargs)
        check_at_least('interval', interval, 1)
        self.interval = interval
        self.adaptive_interval = adaptive_interval

    def _groups(self, size: tuple[int, int]) -> Groups:
        interval = ceil_div(max(size), self.group_size) if self.adaptive_interval else self.interval
        if self.far_groups == 'block':
            return Groups((self.group_size, self.group_size), interval)
        height, width = size
        return Groups((ceil_div(height, interval), ceil_div(width, interval)), interval)

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'group_size', 'interval', 'far_groups')
