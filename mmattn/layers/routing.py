from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mmattn.checks import check_at_least, check_choice, check_divides, check_map, check_number
from mmattn.errors import ArgumentError
from mmattn.layers.attended import Attended, Keys, centers, keys_of
from mmattn.layers.describe import arguments_repr
from mmattn.layers.position import LocallyEnhancedPositionEncoding
from mmattn.layers.projection import split_linear
from mmattn.layers.regions import Regions
from mmattn.layers.sampling import KV_SAMPLINGS, sample_regions
from mmattn.ops.routing import region_view, routed_attention, top_routes


class Routes(NamedTuple):
    """What each region chose.

    Args:
        chosen: (B, Gy, Gx, k) the regions, by number, row by row.
        logits: (B, Gy, Gx, k) how well they fit.
        weights: (B, Gy, Gx, k) what multiplies their keys and values; None for nothing.
    """
    chosen: Tensor
    logits: Tensor
    weights: Tensor | None


class Projections(NamedTuple):
    """Queries, keys and values, maps (B, H', W', C) of whole regions; keys and values may be fewer.

    Args:
        q, k, v: the maps.
        mask: (B, H', W') or (1, H', W') which keys are real; None for all.
    """
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None


class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention (BRA; BiFormer, Zhu et al., CVPR 2023, section 3.2, eqs. 3 to 7): the map is cut into
    regions; every region chooses the regions whose mean key fits its mean query best; its tokens attend to the tokens
    of those.

    For region r, and token i of it, in each head::

        I_r = the k regions s with the largest Q_r . K_s        Q, K: mean of q and of k in each region, of all heads
        z_i = sum_j softmax_j(c q_i . k_j) v_j                  over the tokens j of the regions in I_r
        y   = W_proj (concat of the heads' z + LePE(v))         q, k, v = W_qkv x

    c: scale. LePE: a depth-wise convolution (CSWin, eq. 9).

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C and `qk_dims`.
        num_windows: regions along each side of the map.
        topk: regions k that a region chooses; at most as many as there are, with one warning.
        qk_dims: channels of queries and keys, C unless given.
        scale: of the logits; 1 / sqrt(qk_dims), over all heads, unless given, as in the published models.
        lepe_kernel_size: of the depth-wise convolution, odd; 0 for none.
        out_proj: whether a linear map follows.
        kv_sampling: how keys and values of a region become fewer: 'identity' keeps them; 'ada_avgpool' and
            'ada_maxpool' leave kv_size x kv_size; 'avgpool', 'maxpool' and 'conv' (depth-wise) shrink each side by
            kv_size; 'fracpool' leaves kv_size x kv_size by fractional max pooling, random in training.
        kv_size: see `kv_sampling`.
        param_routing: a linear map before regions are compared; needs `diff_routing`.
        diff_routing: gradients pass through the routing: through its weights where `soft_routing` multiplies them, and
            straight through the choice (a factor of value 1) where it does not.
        soft_routing: multiply keys and values by the softmax of the logits of their route.
        pad: what completes the last regions. 'before': zeros, before the projections, until there are num_windows
            regions of ceil(side / num_windows) pixels; 'after': zeros, after the projections, and regions are
            floor(side / num_windows) pixels, so that there may be more of them. Both are published: the channels-last
            and the channels-first model.
        mask_padding: leave padding out of means, routing, softmax and LePE. The published models do not.
        backend: what computes attention; None for the fastest that can run (see
            `mmattn.ops.routing.routed_attention`).

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads that do not divide the channels, an unknown sampling, padding or backend, parametric
            routing without gradients.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, num_windows: int = 7, topk: int = 4,
                 qk_dims: int | None = None, scale: float | None = None, lepe_kernel_size: int = 5,
                 out_proj: bool = True, kv_sampling: str = 'identity', kv_size: int = 4, param_routing: bool = False,
                 diff_routing: bool = False, soft_routing: bool = False, pad: str = 'before',
                 mask_padding: bool = False, backend: str | None = None) -> None:
        super().__init__()
        qk_dims = embed_dims if qk_dims is None else qk_dims
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_divides('qk_dims', qk_dims, 'num_heads', num_heads)
        check_choice('kv_sampling', kv_sampling, KV_SAMPLINGS)
        check_choice('pad', pad, ('before', 'after'))
        check_at_least('num_windows', num_windows, 1)
        check_at_least('topk', topk, 1)
        check_at_least('kv_size', kv_size, 1)
        if scale is not None:
            check_number('scale', scale)
        if param_routing and not diff_routing:
            raise ArgumentError('param_routing=True needs diff_routing=True, or its parameters get no gradient')
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.num_windows = num_windows
        self.topk = topk
        self.qk_dims = qk_dims
        self.scale = qk_dims ** -0.5 if scale is None else scale
        self.kv_sampling = kv_sampling
        self.kv_size = kv_size
        self.diff_routing = diff_routing
        self.soft_routing = soft_routing
        self.pad = pad
        self.mask_padding = mask_padding
        self.backend = backend
        self.qkv = nn.Linear(embed_dims, 2 * qk_dims + embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims) if out_proj else nn.Identity()
        self.lepe = LocallyEnhancedPositionEncoding(embed_dims, lepe_kernel_size) if lepe_kernel_size else None
        self.router = nn.Linear(qk_dims, qk_dims) if param_routing else nn.Identity()
        dims = qk_dims + embed_dims
        self.kv_conv = nn.Conv2d(dims, dims, kv_size, kv_size, groups=dims) if kv_sampling == 'conv' else None

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.qkv.weight.dtype)
        regions = self.regions(x.shape[2:])
        q, k, v = self.projections(x, regions)
        routes, projected = self.routed(q, k, v, regions)
        out = regions.crop(routed_attention(projected.q, projected.k, projected.v, routes.chosen, self.num_heads,
                                            self.scale, routes.weights, projected.mask, self.backend))
        if self.lepe:
            out = out + regions.crop(self.lepe(v))
        return self.proj(out).permute(0, 3, 1, 2)

    def regions(self, size: Sequence[int]) -> Regions:
        """The regions of a map of `size` (H, W)."""
        return Regions.of(size, self.num_windows, fixed_count=self.pad == 'before')

    def projections(self, x: Tensor, regions: Regions) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map (B, C, H, W), channels last: (B, H, W, C), or (B, H', W', C) with those of
        padding, where it takes part."""
        x = x.permute(0, 2, 3, 1)
        if self.pad == 'before' and not self.mask_padding:
            x = regions.pad(x)
        q, k, v = split_linear(self.qkv, x, [self.qk_dims, self.qk_dims, self.embed_dims])
        return q, k, v

    def routed(self, q: Tensor, k: Tensor, v: Tensor, regions: Regions) -> tuple[Routes, Projections]:
        """Routes, and the maps that attention is computed of, for what `projections` gives."""
        q, k, v = (regions.pad(t) for t in (q, k, v))
        real = regions.real(q.device) if self.mask_padding or self.pad == 'after' else None
        routes = self._route(q, k, regions, real)
        k, v, mask = self._sample(k, v, regions.grid, real if self.mask_padding else None)
        return routes, Projections(q, k, v, mask)

    def _route(self, q: Tensor, k: Tensor, regions: Regions, real: Tensor | None) -> Routes:
        usable = None
        if real is None:
            q, k = regions.means(q), regions.means(k)
        else:       # regions of nothing but padding have the mean zero
            kept = real[..., None].to(q.dtype)
            share = regions.means(kept)
            q, k = (regions.means(t * kept) / share.clamp(min=1e-6) for t in (q, k))
            usable = share[..., 0] > 0 if self.mask_padding else None
        if not self.diff_routing:
            q, k = q.detach(), k.detach()
        chosen, logits = top_routes(self.router(q), self.router(k), regions.at_most(self.topk), self.scale, usable)
        if not self.soft_routing and not self.diff_routing:
            return Routes(chosen, logits, None)
        weights = logits.softmax(-1)
        return Routes(chosen, logits, weights if self.soft_routing else 1 + weights - weights.detach())

    def _sample(self, k: Tensor, v: Tensor, grid: Sequence[int],
                real: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Fewer keys and values in each region, and which of them are real, None for all; maps again."""
        if self.kv_sampling == 'identity':
            return k, v, real

        def cut(t: Tensor) -> Tensor:
            return rearrange(region_view(t, grid), 'b gy gx y x c -> (b gy gx) c y x')

        def join(t: Tensor) -> Tensor:
            return rearrange(t, '(b gy gx) c y x -> b (gy y) (gx x) c', gy=grid[0], gx=grid[1])

        kv, kept = sample_regions(
            self.kv_sampling, cut(torch.cat([k, v], -1)),
            None if real is None else cut(real.expand(len(k), -1, -1)[..., None]),
            self.kv_size, self.kv_conv, self.training)
        k, v = join(kv.to(k.dtype)).split([self.qk_dims, self.embed_dims], -1)      # autocast pools some in float32
        return k, v, None if kept is None else join(kept)[..., 0]

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`; a key of fewer than there are pixels is where the mean of its pixels
        is."""
        regions = self.regions(x.shape[2:])
        routes, (q, k, _, mask) = self.routed(*self.projections(x, regions), regions)
        grid, region = regions.grid, regions.region
        boxes = regions.boxes(x.device)
        q, k = (region_view(t, grid)[0] for t in (q, k))                                    # (Gy, Gx, y, x, C)
        real = None if mask is None else region_view(mask[:1, ..., None], grid)[0]
        places = centers(region, x.device).permute(2, 0, 1)[None]                           # (1, 2, y, x)
        places = F.adaptive_avg_pool2d(places, (k.shape[2], k.shape[3]))[0].flatten(1).T    # in a region, (M, 2)

        def keys(row: int, column: int) -> Keys:
            place = row // region[0], column // region[1]
            numbers = routes.chosen[0][place]
            chosen = numbers // grid[1], numbers % grid[1]
            of_routes = k[chosen]                                                           # (k, y, x, C)
            if routes.weights is not None:
                of_routes = of_routes * routes.weights[0][place][:, None, None, None]
            query = q[place][row % region[0], column % region[1]]
            return keys_of(rearrange(query, '(h d) -> h d', h=self.num_heads),
                           rearrange(of_routes, 'k y x (h d) -> h (k y x) d', h=self.num_heads),
                           (boxes[chosen][:, None, :2] + places).flatten(0, 1),
                           None if real is None else real[chosen].flatten(), self.scale)

        return Attended([keys(*pixel) for pixel in pixels], routes=routes.chosen[0], scores=routes.logits[0].float(),
                        regions=boxes)

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'num_windows', 'topk')
