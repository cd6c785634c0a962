import math

import pytest
import torch

from mmattn.layers import LongDistanceAttention, ShortDistanceAttention
from mmattn.ops import reference
from mmattn.ops.partition import relative_bias
from tests.compare import assert_same, largest_tensor

KINDS = ('dynamic', 'table', 'none')


def by_formula(m, x, interval):
    height, width = x.shape[2:]
    group = (m.group_size,) * 2
    if min(height, width) <= m.group_size:
        group, interval = (height, width), 1
    table = m.position_bias(group) if m.position_bias else x.new_zeros(m.num_heads, *(2 * n - 1 for n in group))
    bias = relative_bias(table, group).unflatten(2, group).unflatten(1, group)
    return reference.grouped_attention(x.permute(0, 2, 3, 1), (m.qkv.weight, m.qkv.bias), (m.proj.weight, m.proj.bias),
                                       bias, m.num_heads, interval).permute(0, 3, 1, 2)


@pytest.mark.parametrize('size', [(1, 1), (3, 3), (2, 19), (4, 5), (7, 11), (13, 8)])
@pytest.mark.parametrize('position_bias', KINDS)
@pytest.mark.parametrize('interval', [1, 2, None])
def test_equals_the_formula_with_gradients(size, position_bias, interval):
    arguments = dict(embed_dims=32, num_heads=2, group_size=3, position_bias=position_bias)
    if interval == 1:
        m = ShortDistanceAttention(**arguments).double()
    else:
        m = LongDistanceAttention(**arguments, interval=interval or 8, adaptive_interval=interval is None).double()
    x = torch.randn(2, 32, *size, dtype=torch.double, requires_grad=True)
    parameters = [p for p in m.parameters() if p.requires_grad]
    expected = by_formula(m, x, interval or math.ceil(max(size) / 3))
    assert_same(m(x), expected, (x, *parameters))


def test_a_strip_stays_within_its_area():
    m = LongDistanceAttention(8, 2, group_size=7)
    x = torch.randn(1, 8, 7, 800, requires_grad=True)
    with largest_tensor() as largest:
        m(x).square().sum().backward()
    assert largest.numel < 2 ** 23 < 2 * (7 * 800) ** 2
    assert x.grad.isfinite().all()


def test_no_call_changes_the_next():
    m = LongDistanceAttention(8, 2, group_size=3, interval=2).eval()
    big, small = torch.randn(1, 8, 12, 17), torch.randn(1, 8, 2, 5)
    with torch.no_grad():
        first = m(big)
        m(small)
        assert torch.equal(m(big), first)


def test_bias_is_made_once_a_size_until_a_parameter_changes():
    m = ShortDistanceAttention(64, 2, group_size=3).eval()
    calls = []
    m.position_bias.net.register_forward_hook(lambda *args: calls.append(1))
    x = torch.randn(1, 64, 9, 9)
    with torch.no_grad():
        before = m(x)
        m(x)
        m(torch.randn(1, 64, 6, 8))
        assert len(calls) == 1
        m(x[..., :2])
        assert len(calls) == 2
        m.position_bias.net[-1].weight.mul_(5)
        assert not torch.allclose(m(x), before)
    with_gradients = m(x)
    m.position_bias.net[0].bias.grad = None
    with_gradients.sum().backward()
    assert m.position_bias.net[0].bias.grad is not None
    m.load_state_dict(ShortDistanceAttention(64, 2, group_size=3).state_dict())
    with torch.no_grad():
        assert not torch.allclose(m(x), with_gradients)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(num_heads=3), 'embed_dims=8 is not divisible by num_heads=3'),
    (dict(position_bias='cpb'), "position_bias='cpb' is unknown; choose one of dynamic, table, none"),
    (dict(group_size=0), 'group_size=0 must be at least 1'),
    (dict(interval=0), 'interval=0 must be at least 1'),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LongDistanceAttention(8, **dict(num_heads=2) | options)
