from copy import deepcopy

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from mmattn.errors import ArgumentError
from mmattn.layers import DeformableAttention
from mmattn.ops import reference
from mmattn.ops.deformable import log_displacements, resize_fixed_bias
from mmattn.ops.grid import query_grid
from tests.compare import assert_same


def by_formula(layer, x):
    """The layer written out with the plain formulas."""
    q_map = layer.proj_q(x)
    points, _ = layer.sampling_points(q_map)
    groups = layer.offset_groups
    if layer.offset is None:
        sampled = F.avg_pool2d(x, layer.stride, ceil_mode=True)
    else:
        sampled = torch.cat([reference.bilinear(part, points[:, g]) for g, part in enumerate(x.chunk(groups, 1))], 1)
    q, k, v = (rearrange(t, 'b (h d) y x -> b h (y x) d', h=layer.num_heads)
               for t in (q_map, layer.proj_k(sampled), layer.proj_v(sampled)))
    queries, points = query_grid(x.shape[2:], layer.convention).to(x.dtype).flatten(0, 1), points.flatten(2, 3)
    if layer.position_bias == 'table':
        out = reference.deformable_attention(q, k, v, points, layer.rpe_table, queries)
    elif layer.position_bias == 'log_cpb':
        bias = rearrange(layer.rpe_mlp(log_displacements(queries, points)), 'b g n k h -> b (g h) n k')
        out = reference.attention(q, k, v, bias)
    elif layer.position_bias == 'fixed':
        out = reference.attention(q, k, v, resize_fixed_bias(layer.rpe_table, q.shape[2], k.shape[2]))
    else:
        out = reference.attention(q, k, v)
    out = rearrange(out, 'b h (y x) d -> b (h d) y x', y=x.shape[2])
    if layer.position_bias == 'depthwise':
        out = out + layer.rpe_conv(q_map)
    return layer.proj_out(out)


def random_layer(**options):
    layer = DeformableAttention(12, num_heads=6, **dict(offset_groups=3, table_size=4) | options)
    for name, p in layer.named_parameters():
        if name == 'rpe_table':
            torch.nn.init.normal_(p)
    return layer


@pytest.mark.parametrize('options', [
    dict(), dict(backend='separable'), dict(convention='dat_pp', offset_range_factor=-1.0),
    dict(stride=2, table_size=(3, 5)), dict(offset_groups=1, offset_kernel_size=3), dict(offset_range_factor=-1.0),
    dict(stride=4, offset_kernel_size=4, convention='dat_pp'), dict(position_bias='log_cpb', convention='dat_pp'),
    dict(position_bias='fixed'), dict(position_bias='fixed', stride=2), dict(position_bias='depthwise'),
    dict(position_bias='none'), dict(offsets=False), dict(offsets=False, stride=3, position_bias='none'),
], ids=str)
@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 1), (7, 11)])
def test_equals_the_formula_with_gradients(options, size):
    layer = random_layer(**options).double()
    x = torch.randn(2, 12, *size, dtype=torch.double, requires_grad=True)
    ours = layer(x)
    assert ours.shape == x.shape
    tolerance = dict(atol=1e-7, rtol=1e-5)
    if options.get('offsets', True):
        assert_same(ours, by_formula(layer, x), (x, *layer.parameters()), **tolerance)
    else:       # points on the grid read the table at its entries, where the formula has no one slope
        assert_same(ours, by_formula(layer, x), (x, *layer.proj_v.parameters()), **tolerance)


@pytest.mark.parametrize('position_bias', ['table', 'log_cpb', 'fixed', 'depthwise', 'none'])
def test_every_parameter_gets_a_gradient(position_bias):
    layer = DeformableAttention(8, num_heads=4, offset_groups=2, position_bias=position_bias, table_size=(9, 10))
    layer(torch.randn(1, 8, 9, 10)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in layer.named_parameters()
               if name != 'proj_k.bias')        # softmax cancels a constant added to every key


def points_of(layer, x, autocast=False):
    """Sampled points as the layer itself computes them, in pixels of a map."""
    seen = []
    original = layer.sampling_points
    layer.sampling_points = lambda q: seen.append(original(q)[0]) or original(q)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, autocast):
        layer(x)
    del layer.sampling_points
    return (seen[0] + 1) / 2 * (torch.tensor(x.shape[2:]) - 1)


def test_points_do_not_feel_low_precision():
    layer = DeformableAttention(32, num_heads=2, offset_groups=2, convention='dat_pp', offset_range_factor=-1)
    x = torch.randn(1, 32, 25, 167).bfloat16().float()
    exact = points_of(layer, x)
    assert (points_of(layer, x, autocast=True) - exact).abs().max() < 1e-4
    low = deepcopy(layer).bfloat16()
    rounded = deepcopy(low).float()
    assert (points_of(low, x.bfloat16()) - points_of(rounded, x)).abs().max() < 1e-4


@pytest.mark.parametrize('options', [dict(), dict(backend='separable'), dict(position_bias='log_cpb'),
                                     dict(position_bias='depthwise')], ids=str)
def test_low_precision_output_is_close_and_trains(options):
    layer = random_layer(**options)
    x = torch.randn(2, 12, 9, 10, requires_grad=True)
    exact = layer(x)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert ((out - exact).norm() / exact.norm()).item() < 2e-2
    out.float().square().sum().backward()
    assert x.grad.isfinite().all()
    half = deepcopy(layer).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert ((half - exact).norm() / exact.norm()).item() < 3e-2


def test_dropout_of_weights_only_in_training():
    layer = DeformableAttention(12, 6, offset_groups=3, attn_drop_rate=0.5)
    x = torch.randn(1, 12, 5, 6)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match='embed_dims=100 is not divisible by num_heads=3'):
        DeformableAttention(100, 3)
    with pytest.raises(ArgumentError, match='num_heads=4 is not divisible by offset_groups=3'):
        DeformableAttention(96, 4, offset_groups=3)
    with pytest.raises(ArgumentError, match="convention='v1' is unknown"):
        DeformableAttention(96, 4, convention='v1')
    with pytest.raises(ArgumentError, match="position_bias='rpe' is unknown; choose one of table, log_cpb, fixed, "):
        DeformableAttention(96, 4, position_bias='rpe')
    with pytest.raises(ValueError, match="backend='separable' cannot run: only dense drops attention weights"):
        DeformableAttention(8, 4, backend='separable', attn_drop_rate=0.5)(torch.zeros(1, 8, 3, 3))
