import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mmattn.errors import ArgumentError
from mmattn.layers import ConditionalPositionEncoding, DynamicPositionBias, ShortDistanceAttention
from mmattn.layers.position import LocallyEnhancedPositionEncoding, PositionBiasTable
from tests.compare import assert_same


def test_dynamic_bias_is_the_network_at_every_displacement():
    m = DynamicPositionBias(5, 3)
    table = m((2, 4))
    assert table.shape == (3, 3, 7)
    torch.testing.assert_close(table[:, 0, 5], m.net(torch.tensor([-1., 2.])))
    torch.testing.assert_close(m((4, 4))[:, 2:5], table)


def test_dynamic_bias_is_float32_under_autocast():
    m = DynamicPositionBias(5, 3)
    exact = m((3, 3))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(m((3, 3)), exact)


def test_conditional_encoding_adds_a_normalised_convolution():
    m = ConditionalPositionEncoding(3).double()
    x = torch.randn(1, 3, 4, 5, dtype=torch.double, requires_grad=True)
    around = [sum(x[0, c, 1 + dy, 2 + dx] * m.conv.weight[c, 0, 1 + dy, 1 + dx] for dy in (-1, 0, 1)
                  for dx in (-1, 0, 1)) + m.conv.bias[c] for c in range(3)]
    expected = x[0, :, 1, 2] + torch.nn.functional.layer_norm(torch.stack(around), (3,))
    assert_same(m(x)[0, :, 1, 2], expected, (x, m.conv.weight))


def test_rows_with_a_kernel_each_and_maps_of_other_heights():
    m = ConditionalPositionEncoding(3, rows=4).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.double)
    expected = x + m.norm(m.conv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))    # a row is a channel of the convolution
    torch.testing.assert_close(m(x), expected)
    tall = m(x.repeat_interleave(2, 2))
    torch.testing.assert_close(tall[:, :, ::2], m(x))
    torch.testing.assert_close(tall[:, :, 1::2], m(x))


def test_a_table_by_displacement_goes_on_with_its_border():
    m = PositionBiasTable(3, 2)
    assert torch.equal(m((3, 2)), m.table[:, :, 1:4])
    wide = m((1, 5))
    assert wide.shape == (2, 1, 9)
    assert torch.equal(wide[:, 0, 2:7], m.table[:, 2])
    assert torch.equal(wide[:, 0, :2], m.table[:, 2, :1].expand(-1, 2))


def test_lepe_is_a_convolution_of_each_channel():
    m, x = LocallyEnhancedPositionEncoding(3, 5), torch.randn(2, 4, 7, 3)
    expected = [torch.nn.functional.conv2d(x[None, ..., c].transpose(0, 1), m.weight[c:c + 1], m.bias[c:c + 1],
                                           padding=2)[:, 0] for c in range(3)]
    torch.testing.assert_close(m(x), torch.stack(expected, -1))
    with pytest.raises(ArgumentError, match='lepe_kernel_size=4 must be odd and at least 1'):
        LocallyEnhancedPositionEncoding(3, 4)


@pytest.mark.parametrize(('make', 'call'), [
    (lambda: DynamicPositionBias(5, 3), lambda m: m((2, 4))), (lambda: PositionBiasTable(3, 2), lambda m: m((2, 4))),
    (lambda: ConditionalPositionEncoding(3, rows=2), lambda m: m(torch.ones(1, 3, 4, 5))),
    (lambda: ShortDistanceAttention(8, 2, group_size=3), lambda m: m(torch.linspace(0, 1, 384).view(1, 8, 6, 8)))])
@pytest.mark.parametrize('grad', [False, True])
def test_no_call_remembers_parameters(make, call, grad):
    """Swapped in ways that no version counter sees, as moving averages of weights are."""
    m, other = make(), make()
    for p in (*m.parameters(), *other.parameters()):
        torch.nn.init.normal_(p)
    with torch.set_grad_enabled(grad):
        before, wanted = call(m), call(other)
        assert not torch.allclose(before, wanted)
        kept = [p.data.clone() for p in m.parameters()]
        for p, q in zip(m.parameters(), other.parameters()):
            p.data.copy_(q.data)
        assert torch.equal(call(m), wanted)
        for p, q in zip(m.parameters(), kept):
            p.data = q
        assert torch.equal(call(m), before)
        vector_to_parameters(parameters_to_vector(other.parameters()).detach(), m.parameters())
        torch.testing.assert_close(call(m), wanted)


@pytest.mark.parametrize(('make', 'call'), [
    (lambda: DynamicPositionBias(5, 3), lambda m: m((2, 4))),
    (lambda: ShortDistanceAttention(8, 2, group_size=3), lambda m: m(torch.ones(1, 8, 6, 8)))])
def test_parameters_made_in_inference_mode_serve(make, call):
    with torch.inference_mode():
        m = make()
        inside = call(m)
    with torch.no_grad():
        assert torch.equal(call(m), inside)
