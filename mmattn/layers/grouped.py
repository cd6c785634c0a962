import math

from torch import nn

from mmattn.checks import check_at_least, check_choice, check_divides, check_map
from mmattn.layers.position import DynamicPositionBias, PositionBiasTable
from mmattn.ops.grouped import grouped_attention


class ShortDistanceAttention(nn.Module):
    """Short distance attention (SDA; CrossFormer, Wang et al., ICLR 2022, section 3.2): multi-head attention inside
    near groups, windows of group_size x group_size tokens, with a bias by relative position.

    Any map size: border groups are smaller.

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads h, must divide C.
        group_size (int): side of a group in tokens.
        qkv_bias (bool): whether the projections to queries, keys and values have a bias.
        position_bias (str): 'dynamic', from the displacement by a network (DPB, eq. 2); 'table', a parameter per
            displacement; 'none'.
        far_groups (str): how far groups lie, and with them the groups of a map with a side of at most `group_size`,
            which has near groups only. 'map', as in the release of 2021 that the published models were trained with:
            such a map has near groups as wide as its shorter side. 'block', as in the code of 2023: it is one group.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: heads that do not divide the channels, an unknown position bias or kind of far groups, sizes
            below 1.
    """

    def __init__(self, embed_dims, num_heads, group_size=7, qkv_bias=True, position_bias='dynamic', far_groups='map'):
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_choice('position_bias', position_bias, ('dynamic', 'table', 'none'))
        check_choice('far_groups', far_groups, ('map', 'block'))
        check_at_least('group_size', group_size, 1)
        self.num_heads = num_heads
        self.group_size = group_size
        self.far_groups = far_groups
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.position_bias = None
        if position_bias == 'dynamic':
            self.position_bias = DynamicPositionBias(max(embed_dims // 16, 1), num_heads)
        elif position_bias == 'table':
            self.position_bias = PositionBiasTable(group_size, num_heads)

    def forward(self, x):
        check_map(x, self.proj.in_features, self.proj.weight.dtype)
        group, interval = self.groups(tuple(x.shape[2:]))
        out = grouped_attention(x.permute(0, 2, 3, 1), (self.qkv.weight, self.qkv.bias),
                                (self.proj.weight, self.proj.bias), self.table(group, x), self.num_heads, interval)
        return out.permute(0, 3, 1, 2)

    def groups(self, size):
        """The groups of a map of `size` (H, W): (height, width) of one in tokens, and pixels between its tokens."""
        shorter = min(size)
        if shorter > self.group_size:
            return self._groups(size)
        return ((shorter, shorter) if self.far_groups == 'map' else tuple(size)), 1

    def _groups(self, size):
        return (self.group_size, self.group_size), 1

    def table(self, size, like):
        """(h, 2 gy - 1, 2 gx - 1) bias of each displacement in a group of `size`."""
        if self.position_bias is None:
            return like.new_zeros(self.num_heads, 2 * size[0] - 1, 2 * size[1] - 1)
        return self.position_bias(size)


class LongDistanceAttention(ShortDistanceAttention):
    """Long distance attention (LDA; CrossFormer, section 3.2): the same inside far groups, which take every
    `interval`-th token along each side.

    Args:
        embed_dims, num_heads, group_size, qkv_bias, position_bias: as in `ShortDistanceAttention`.
        interval (int): pixels from one token of a group to the next.
        adaptive_interval (bool): as many as make `group_size` tokens span the longer side of the map, whatever
            `interval` says.
        far_groups (str): 'map': a far group reaches over the whole map and has H / interval x W / interval tokens,
            rounded up. 'block': over a block of group_size * interval pixels, with group_size x group_size tokens. Both
            are the same where one block covers the map. Small maps as in `ShortDistanceAttention`.

    Shapes, errors:
        as in `ShortDistanceAttention`.
    """

    def __init__(self, embed_dims, num_heads, group_size=7, interval=8, adaptive_interval=False, **kwargs):
        super().__init__(embed_dims, num_heads, group_size, **kwargs)
        check_at_least('interval', interval, 1)
        self.interval = interval
        self.adaptive_interval = adaptive_interval

    def _groups(self, size):
        interval = math.ceil(max(size) / self.group_size) if self.adaptive_interval else self.interval
        if self.far_groups == 'block':
            return (self.group_size, self.group_size), interval
        return tuple(math.ceil(side / interval) for side in size), interval
