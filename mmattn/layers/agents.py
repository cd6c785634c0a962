from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from mmattn.checks import check_at_least, check_divides, check_kernel, check_map, check_size
from mmattn.layers.attended import Attended, attended_points, to_pixels
from mmattn.layers.describe import arguments_repr
from mmattn.layers.mlp import DepthwiseMLP
from mmattn.layers.norm import LayerNorm2d
from mmattn.layers.precision import in_float32
from mmattn.layers.projection import split_linear
from mmattn.layers.regions import Regions
from mmattn.ops.deformable import deformable_attention, position_bias, sample_groups
from mmattn.ops.grid import key_grid, query_grid
from mmattn.ops.partition import ceil_div, pad_to_size
from mmattn.ops.routing import routed_attention, top_routes


class Agents(NamedTuple):
    """Agents of a map and what they attend to; maps are channels last, completed to whole windows of agents (Ha, Wa)
    and of pixels (H', W').

    Args:
        sampled: (B, Ha, Wa, C) what the map holds where they are.
        points: (B, G, Ha, Wa, 2) where they are, (y, x) normalised.
        lepe: (B, Ha, Wa, C) encoding of their positions.
        routing: (B, Ha, Wa, C) their queries.
        q, k, v: (B, H', W', C) queries, keys and values of the pixels.
        chosen: (B, n, n, k) the windows of pixels that each window of agents chose, by number, row by row.
        logits: (B, n, n, k) how well they fit.
    """
    sampled: Tensor
    points: Tensor
    lepe: Tensor
    routing: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    chosen: Tensor
    logits: Tensor


class DeformableBiLevelRoutingAttention(nn.Module):
    """Deformable bi-level routing attention (DeBRA; DeBiFormer, Long et al., ACCV 2024, section 3.2): agents, sampled
    at points that the queries choose, attend to the pixels of the windows that fit theirs best; then every pixel
    attends to all agents.

    For agent a at point p, pixel i of a map x, in each head::

        p   = clamp(r + o(q), -1, 1)                            r: the uniform grid; o: offset network, one number
        b_a = x(p) + W_1 (sum_j softmax_j(c W_q x(p) . k_j) v_j + LePE(v))      j: pixels of the chosen windows
        a   = norm(b + MLP(norm(b)))
        z_i = sum_a softmax_a(c q_i . W_k a + T((r_i - p_a) / 2)) W_v a         q, k, v = W_qkv x
        y   = W_out (concat of the heads' z)

    c = 1 / sqrt(C), over all heads. The windows of a window of agents are those whose mean key fits the mean of its
    W_q x(p) best. LePE: a depth-wise convolution, of the stride of the agents. T: bias table of the head, by
    displacement, read bilinearly.

    Map and agents are completed with zeros to whole windows, at the bottom and right; as in the published models, what
    completes them takes part, agents of padding at the middle of the map.

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C.
        offset_groups: groups G with points of their own, must divide h.
        stride: pixels of the map per agent, along each side.
        offset_kernel_size: depth-wise kernel of the offset network, odd.
        num_windows: windows n along each side, of pixels and of agents.
        topk: windows k that a window of agents chooses; at most as many as there are, with one warning.
        mlp_ratio: hidden channels of the agents' MLP / C.
        lepe_kernel_size: of the depth-wise convolution, odd.
        table_size: map size, (height, width) or one side, for which the bias is made: the table has
            (2 height - 1) x (2 width - 1) entries; other sizes interpolate in it.
        backend: what computes the pixels' attention; None for the fastest that can run (see
            `mmattn.ops.deformable.deformable_attention`).

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads do not divide the channels, groups do not divide the heads, an even kernel, sizes below 1.

    Example:
        >>> attn = DeformableBiLevelRoutingAttention(96, num_heads=3, stride=2)
        >>> attn(torch.rand(2, 96, 20, 31)).shape
        torch.Size([2, 96, 20, 31])
    """

    def __init__(self, embed_dims: int, num_heads: int, *, offset_groups: int = 1, stride: int = 1,
                 offset_kernel_size: int = 3, num_windows: int = 7, topk: int = 4, mlp_ratio: float = 3.0,
                 lepe_kernel_size: int = 5, table_size: int | Sequence[int] = 14, backend: str | None = None) -> None:
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_divides('num_heads', num_heads, 'offset_groups', offset_groups)
        check_at_least('stride', stride, 1)
        check_kernel('offset_kernel_size', offset_kernel_size)
        check_at_least('num_windows', num_windows, 1)
        check_at_least('topk', topk, 1)
        check_kernel('lepe_kernel_size', lepe_kernel_size)
        height, width = check_size('table_size', table_size)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.offset_groups = offset_groups
        self.stride = stride
        self.num_windows = num_windows
        self.topk = topk
        self.scale = embed_dims ** -0.5
        self.backend = backend
        dims, kernel = embed_dims // offset_groups, offset_kernel_size
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.offset = nn.Sequential(
            nn.Conv2d(dims, dims, kernel, stride, kernel // 2, groups=dims, bias=False),
            LayerNorm2d(dims),
            nn.GELU(),
            nn.Conv2d(dims, 1, 1, bias=False))
        self.lepe = nn.Conv2d(embed_dims, embed_dims, lepe_kernel_size, stride, lepe_kernel_size // 2,
                              groups=embed_dims)
        self.proj_q = nn.Linear(embed_dims, embed_dims)
        self.proj_agents = nn.Linear(embed_dims, embed_dims)        # W_1
        self.norm1 = LayerNorm2d(embed_dims, eps=1e-6)
        self.mlp = DepthwiseMLP(embed_dims, mlp_ratio)
        self.norm2 = LayerNorm2d(embed_dims, eps=1e-6)
        self.proj_k = nn.Linear(embed_dims, embed_dims)
        self.proj_v = nn.Linear(embed_dims, embed_dims)
        self.proj_out = nn.Linear(embed_dims, embed_dims)
        self.rpe_table = nn.Parameter(torch.empty(num_heads, 2 * height - 1, 2 * width - 1))        # T
        nn.init.trunc_normal_(self.rpe_table, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.proj_out.weight.dtype)
        agents = self.agents(x)
        q, k, v = self.projections(agents)
        out = deformable_attention(q, k, v, agents.points, self.rpe_table, 'dat_pp', backend=self.backend)
        out = self.pixels(x.shape[2:]).crop(rearrange(out, 'b h y x d -> b y x (h d)'))
        return self.proj_out(out).permute(0, 3, 1, 2)

    def pixels(self, size: Sequence[int]) -> Regions:
        """The windows of a map of `size` (H, W)."""
        return Regions.of(size, self.num_windows, fixed_count=True)

    def agents(self, x: Tensor) -> Agents:
        """The agents of a map (B, C, H, W)."""
        pixels = self.pixels(x.shape[2:])
        x = pixels.pad(x.permute(0, 2, 3, 1))
        q, k, v = split_linear(self.qkv, x, [self.embed_dims] * 3)
        points = self.points(q)
        windows = Regions.of(points.shape[2:4], self.num_windows, fixed_count=True)
        sampled, lepe = (windows.pad(t.permute(0, 2, 3, 1)) for t in (
            sample_groups(x.permute(0, 3, 1, 2), points), self.lepe(v.permute(0, 3, 1, 2))))
        points = windows.pad(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        routing = self.proj_q(sampled)
        chosen, logits = top_routes(windows.means(routing).detach(), pixels.means(k).detach(),
                                    pixels.at_most(self.topk), self.scale)
        return Agents(sampled, points, lepe, routing, q, k, v, chosen, logits)

    def projections(self, agents: Agents) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the pixels (B, h, H', W', d), and keys and values of the agents (B, h, Ha, Wa, d), after these
        have attended to the pixels."""
        found = routed_attention(agents.routing, agents.k, agents.v, agents.chosen, self.num_heads, self.scale)
        x = (agents.sampled + self.proj_agents(found + agents.lepe)).permute(0, 3, 1, 2)
        x = self.norm2(x + self.mlp(x, self.norm1)).permute(0, 2, 3, 1)
        scaled = agents.q * self.num_heads ** -0.5      # attention divides by the root of the channels of a head
        q, k, v = (rearrange(t, 'b y x (h d) -> b h y x d', h=self.num_heads)
                   for t in (scaled, self.proj_k(x), self.proj_v(x)))
        return q, k, v

    def points(self, q: Tensor) -> Tensor:
        """Where the agents are, in float32 whatever the precision around it.

        Args:
            q: (B, H', W', C) projected queries.

        Returns:
            (B, G, ceil(H' / stride), ceil(W' / stride), 2), (y, x) normalised, from -1 to 1.
        """
        q = rearrange(q, 'b y x (g c) -> (b g) c y x', g=self.offset_groups)
        offsets = in_float32(self.offset, q)                                        # one number, for y and x
        points = key_grid(offsets.shape[2:], 'dat', q.device).to(offsets.dtype) + offsets[:, 0, :, :, None]
        return points.clamp(-1, 1).unflatten(0, (-1, self.offset_groups))

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`: what pixels attend to are agents, which attended to the routes."""
        windows, agents = self.pixels(x.shape[2:]), self.agents(x)
        q, k, _ = self.projections(agents)
        size = windows.padded_size
        queries = query_grid(size, 'dat_pp', x.device).to(agents.points.dtype).flatten(0, 1)
        grid = [ceil_div(side, self.stride) for side in size]
        references = pad_to_size(key_grid(grid, 'dat', x.device)[None], agents.points.shape[2:4])[0]

        def bias(chosen: slice) -> Tensor:
            return position_bias(self.rpe_table, queries[chosen], agents.points.flatten(2, 3))[0]

        return attended_points(q[0].flatten(1, 2), k[0], pixels, size[1], to_pixels(agents.points[0], size),
                               to_pixels(references, size), bias, routes=agents.chosen[0],
                               scores=agents.logits[0].float(), regions=windows.boxes(x.device))

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'offset_groups', 'stride', 'num_windows', 'topk')
