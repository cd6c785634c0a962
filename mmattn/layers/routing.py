import warnings

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from mmattn.checks import check_at_least, check_choice, check_divides, check_kernel, check_map, check_number
from mmattn.layers.projection import split_linear
from mmattn.ops.partition import pad_to_size
from mmattn.ops.routing import region_view, routed_attention, top_routes

KV_SAMPLINGS = ('identity', 'ada_avgpool', 'ada_maxpool', 'avgpool', 'maxpool', 'fracpool', 'conv')


class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention (Zhu et al., CVPR 2023, section 3.2): the map is cut into regions; every region
    chooses the regions whose mean key fits its mean query best; its tokens attend to the tokens of those.

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads h, must divide C and `qk_dims`.
        num_windows (int): regions along each side of the map.
        topk (int): regions that a region chooses; at most as many as there are, with one warning.
        qk_dims (int | None): channels of queries and keys, C unless given.
        scale (float | None): of the logits; 1 / sqrt(qk_dims), over all heads, unless given, as in the published
            models.
        lepe_kernel_size (int): depth-wise convolution of the values that is added to the output (LePE; CSWin, eq. 9);
            0 for none.
        out_proj (bool): whether a linear map follows.
        kv_sampling (str): how keys and values of a region become fewer: 'identity' keeps them; 'ada_avgpool' and
            'ada_maxpool' leave kv_size x kv_size; 'avgpool', 'maxpool' and 'conv' (depth-wise) shrink each side by
            kv_size; 'fracpool' leaves kv_size x kv_size by fractional max pooling, random in training.
        kv_size (int): see `kv_sampling`.
        param_routing (bool): a linear map before regions are compared; needs `diff_routing`.
        diff_routing (bool): gradients pass through the routing: through its weights where `soft_routing` multiplies
            them, and straight through the choice (a factor of value 1) where it does not.
        soft_routing (bool): multiply keys and values by the softmax of the logits of their route.
        pad (str): what completes the last regions. 'before': zeros, before the projections, until there are
            num_windows regions of ceil(side / num_windows) pixels; 'after': zeros, after the projections, and regions
            are floor(side / num_windows) pixels, so that there may be more of them. Both are published: the
            channels-last and the channels-first model.
        mask_padding (bool): leave padding out of means, routing, softmax and LePE. The published models do not.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: heads that do not divide the channels, an unknown sampling or padding, parametric routing without
            gradients.
    """

    def __init__(self, embed_dims, num_heads, num_windows=7, topk=4, qk_dims=None, scale=None, lepe_kernel_size=5,
                 out_proj=True, kv_sampling='identity', kv_size=4, param_routing=False, diff_routing=False,
                 soft_routing=False, pad='before', mask_padding=False):
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
        if lepe_kernel_size:
            check_kernel('lepe_kernel_size', lepe_kernel_size)
        if param_routing and not diff_routing:
            raise ValueError('param_routing=True needs diff_routing=True, or its parameters get no gradient')
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
        self.qkv = nn.Linear(embed_dims, 2 * qk_dims + embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims) if out_proj else nn.Identity()
        self.lepe = nn.Conv2d(embed_dims, embed_dims, lepe_kernel_size, padding=lepe_kernel_size // 2,
                              groups=embed_dims) if lepe_kernel_size else None
        self.router = nn.Linear(qk_dims, qk_dims) if param_routing else nn.Identity()
        dims = qk_dims + embed_dims
        self.kv_conv = nn.Conv2d(dims, dims, kv_size, kv_size, groups=dims) if kv_sampling == 'conv' else None

    def forward(self, x):
        check_map(x, self.qkv.in_features, self.qkv.weight.dtype)
        height, width = x.shape[2:]
        q, k, v, routes, _, weights, mask, lepe = self.routed(x)
        out = routed_attention(q, k, v, routes, self.num_heads, self.scale, weights, mask)
        return self.proj(out[:, :height, :width] + lepe).permute(0, 3, 1, 2)

    def routed(self, x):
        """What attention is computed of, for a map (B, C, H, W).

        Returns:
            tuple: queries, keys and values, maps of whole regions; routes (B, Gy, Gx, k) and their logits; what
            multiplies their keys and values, or None; mask of the keys, or None (see `routed_attention`); LePE
            (B, H, W, C), or 0.
        """
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)
        if self.pad == 'before':
            region = tuple(-(-side // self.num_windows) for side in (height, width))
            grid = self.num_windows, self.num_windows
        else:
            region = tuple(max(side // self.num_windows, 1) for side in (height, width))
            grid = tuple(-(-side // r) for side, r in zip((height, width), region))
        size = grid[0] * region[0], grid[1] * region[1]
        real = None
        if self.mask_padding or self.pad == 'after':
            real = pad_to_size(x.new_ones(1, height, width, 1), size)[..., 0] > 0             # (1, *size)
        if self.pad == 'before':
            x = pad_to_size(x, size)
        q, k, v = split_linear(self.qkv, x, [self.qk_dims, self.qk_dims, x.shape[-1]])
        if self.mask_padding:
            q, k, v = (t[:, :height, :width] for t in (q, k, v))
        lepe = self.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, :height, :width] if self.lepe else 0
        q, k, v = (pad_to_size(t, size) for t in (q, k, v))
        routes, logits, weights = self._route(q, k, grid, real)
        k, v, mask = self._sample(k, v, grid, real if self.mask_padding else None)
        return q, k, v, routes, logits, weights, mask, lepe

    def _route(self, q, k, grid, real):
        """Routes (B, Gy, Gx, k), their logits, and what multiplies their keys and values, None for nothing."""
        region = q.shape[1] // grid[0], q.shape[2] // grid[1]

        def mean(t):
            return F.avg_pool2d(t.permute(0, 3, 1, 2), region).permute(0, 2, 3, 1)          # (B, Gy, Gx, C)

        usable = None
        if real is None:
            q, k = mean(q), mean(k)
        else:       # regions of nothing but padding have the mean zero
            real = real[..., None].to(q.dtype)
            share = mean(real)
            q, k = (mean(t * real) / share.clamp(min=1e-6) for t in (q, k))
            usable = share[..., 0] > 0 if self.mask_padding else None
        if not self.diff_routing:
            q, k = q.detach(), k.detach()
        count = min(self.topk, grid[0] * grid[1])
        if count < self.topk:
            warnings.warn(f'topk={self.topk} is more than the {count} regions of this map; all of them are attended to',
                          stacklevel=4)
        routes, logits = top_routes(self.router(q), self.router(k), count, self.scale, usable)
        if not self.soft_routing and not self.diff_routing:
            return routes, logits, None
        weights = logits.softmax(-1)
        return routes, logits, weights if self.soft_routing else 1 + weights - weights.detach()

    def _sample(self, k, v, grid, real):
        """Maps of fewer keys and values, region by region, and which of them are real, None for all."""
        if self.kv_sampling == 'identity':
            return k, v, real
        kv = rearrange(region_view(torch.cat([k, v], -1), grid), 'b gy gx y x c -> (b gy gx) c y x')
        if real is not None:
            real = rearrange(region_view(real.expand(len(k), -1, -1)[..., None], grid),
                             'b gy gx y x c -> (b gy gx) c y x')
        kv, real = (None if t is None else rearrange(t, '(b gy gx) c y x -> b (gy y) (gx x) c', gy=grid[0], gx=grid[1])
                    for t in self._pool(kv, real))
        kv = kv.to(k.dtype)         # autocast pools some ways in float32
        return *kv.split([self.qk_dims, v.shape[-1]], -1), None if real is None else real[..., 0]

    def _pool(self, kv, real):
        """kv (n, C, y, x) and real (n, 1, y, x), or None, at fewer places."""
        size = self.kv_size
        kernel = tuple(min(size, side) for side in kv.shape[2:])
        if self.kv_sampling == 'conv':
            pad = [max(size - side, 0) for side in kv.shape[2:]]
            kv = F.pad(kv if real is None else kv * real, (0, pad[1], 0, pad[0]))
            return self.kv_conv(kv), real if real is None else F.max_pool2d(real.to(kv.dtype), kernel) > 0
        pool = {
            'ada_avgpool': lambda t: F.adaptive_avg_pool2d(t, size),
            'ada_maxpool': lambda t: F.adaptive_max_pool2d(t, size),
            'avgpool': lambda t: F.avg_pool2d(t, kernel),
            'maxpool': lambda t: F.max_pool2d(t, kernel),
            'fracpool': self._fractional_pool(kv),
        }[self.kv_sampling]
        if real is None:
            return pool(kv), None
        if 'avg' in self.kv_sampling:
            share = pool(real.to(kv.dtype))
            return pool(kv * real) / share.clamp(min=1e-6), share > 0
        pooled = pool(kv.masked_fill(~real, torch.finfo(kv.dtype).min))
        real = pool(real.to(kv.dtype).expand_as(kv))[:, :1] > 0
        return pooled.masked_fill(~real, 0), real

    def _fractional_pool(self, kv):
        """The same places for every channel of keys and values; the middle ones outside training."""
        window = tuple(min(2, side) for side in kv.shape[2:])
        size = tuple(min(self.kv_size, side - k + 1) for side, k in zip(kv.shape[2:], window))
        samples = torch.rand(len(kv), 1, 2, device=kv.device) if self.training else kv.new_full((len(kv), 1, 2), 0.5)
        samples = samples.to(kv.dtype).expand(-1, kv.shape[1], -1)
        return lambda t: F.fractional_max_pool2d(t, window, size, _random_samples=samples)
