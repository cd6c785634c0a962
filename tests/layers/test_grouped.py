import math

import pytest
import torch

from mmattn.errors import ArgumentError
from mmattn.layers import LongDistanceAttention, ShortDistanceAttention
from mmattn.ops import reference
from tests.compare import assert_same, largest_tensor

KINDS = ('dynamic', 'table', 'none')


def by_formula(m, x, interval):
    height, width = x.shape[2:]
    if min(height, width) <= m.group_size:
        group = (min(height, width),) * 2 if m.far_groups == 'map' else (height, width)
        interval = 1
    elif interval == 1 or m.far_groups == 'block':
        group = (m.group_size,) * 2
    else:
        group = math.ceil(height / interval), math.ceil(width / interval)
    table = m.position_bias(group) if m.position_bias else x.new_zeros(m.num_heads, *(2 * n - 1 for n in group))
    return reference.grouped_attention(x.permute(0, 2, 3, 1), (m.qkv.weight, m.qkv.bias), (m.proj.weight, m.proj.bias),
                                       table, m.num_heads, interval).permute(0, 3, 1, 2)


@pytest.mark.parametrize('size', [(1, 1), (3, 3), (2, 19), (4, 5), (7, 11), (13, 8)])
@pytest.mark.parametrize('position_bias', KINDS)
@pytest.mark.parametrize('interval', [1, 2, None])
@pytest.mark.parametrize('far_groups', ['map', 'block'])
def test_equals_the_formula_with_gradients(size, position_bias, interval, far_groups):
    arguments = dict(embed_dims=32, num_heads=2, group_size=3, position_bias=position_bias, far_groups=far_groups)
    if interval == 1:
        m = ShortDistanceAttention(**arguments).double()
    else:
        m = LongDistanceAttention(**arguments, interval=interval or 8, adaptive_interval=interval is None).double()
    x = torch.randn(2, 32, *size, dtype=torch.double, requires_grad=True)
    parameters = [p for p in m.parameters() if p.requires_grad]
    expected = by_formula(m, x, interval or math.ceil(max(size) / 3))
    assert_same(m(x), expected, (x, *parameters))


def test_a_far_group_of_the_map_by_hand():
    m = LongDistanceAttention(8, 2, group_size=2, interval=3)
    assert m.groups((7, 10)) == ((3, 4), 3)
    x = torch.zeros(1, 8, 7, 10, requires_grad=True)
    m(x)[0, :, 1, 2].square().sum().backward()
    assert x.grad[0].abs().sum(0).nonzero().tolist() == [[1, 2], [1, 5], [1, 8], [4, 2], [4, 5], [4, 8]]
    m.far_groups = 'block'      # blocks of 6 x 6 pixels
    x.grad = None
    m(x)[0, :, 1, 2].square().sum().backward()
    assert x.grad[0].abs().sum(0).nonzero().tolist() == [[1, 2], [1, 5], [4, 2], [4, 5]]


@pytest.mark.parametrize(('size', 'near_group', 'far_group'), [
    ((7, 7), (7, 7), (7, 7)), ((5, 30), (5, 5), (5, 5)), ((8, 30), (7, 7), (1, 4)), ((25, 40), (7, 7), (4, 5))])
def test_groups_of_small_and_large_maps(size, near_group, far_group):
    assert ShortDistanceAttention(8, 2).groups(size) == (near_group, 1)
    assert LongDistanceAttention(8, 2).groups(size) == (far_group, 8 if min(size) > 7 else 1)


@pytest.mark.parametrize('far_groups', ['map', 'block'])
def test_a_strip_stays_within_its_area(far_groups):
    m = LongDistanceAttention(8, 2, group_size=7, far_groups=far_groups)
    x = torch.randn(1, 8, 7, 800, requires_grad=True)
    with largest_tensor() as largest:
        m(x).square().sum().backward()
    assert largest.numel < 2 ** 22 < 2 * (7 * 800) ** 2
    assert x.grad.isfinite().all()


def test_the_bias_of_a_large_group_is_never_held():
    m = LongDistanceAttention(8, 2, interval=1)
    x = torch.randn(1, 8, 60, 90, requires_grad=True)
    with largest_tensor() as largest:
        m(x).square().sum().backward()
    assert largest.numel < 2 ** 22 < 2 * (60 * 90) ** 2


def test_no_call_changes_the_next():
    m = LongDistanceAttention(8, 2, group_size=3, interval=2).eval()
    big, small = torch.randn(1, 8, 12, 17), torch.randn(1, 8, 2, 5)
    with torch.no_grad():
        first = m(big)
        m(small)
        assert torch.equal(m(big), first)


def test_bias_is_that_of_the_parameters_as_they_are():
    m = ShortDistanceAttention(64, 2, group_size=3).eval()
    calls = []
    m.position_bias.net.register_forward_hook(lambda *args: calls.append(1))
    x = torch.randn(1, 64, 9, 9)
    with torch.no_grad():
        before = m(x)
        assert len(calls) == 1
        m.position_bias.net[-1].weight.data.mul_(5)         # which no version counter sees
        assert not torch.allclose(m(x), before)


def test_a_backend_is_passed_on():
    m, x = LongDistanceAttention(8, 2, group_size=3, interval=2), torch.randn(1, 8, 7, 11)
    out = m(x)
    m.backend = 'reference'
    torch.testing.assert_close(m(x), out)
    with pytest.raises(ValueError, match="backend='fast' is unknown; choose one of padded, reference, views"):
        ShortDistanceAttention(8, 2, backend='fast')(x)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(num_heads=3), 'embed_dims=8 is not divisible by num_heads=3'),
    (dict(position_bias='cpb'), "position_bias='cpb' is unknown; choose one of dynamic, table, none"),
    (dict(far_groups='all'), "far_groups='all' is unknown; choose one of map, block"),
    (dict(group_size=0), 'group_size=0 must be at least 1'),
    (dict(interval=0), 'interval=0 must be at least 1'),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        LongDistanceAttention(8, **dict(num_heads=2) | options)
