import torch

from mmattn.layers import ConditionalPositionEncoding, DynamicPositionBias
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
