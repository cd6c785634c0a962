import pytest
import torch

from mmattn.errors import ArgumentError
from mmattn.layers import DeformableDETRAttention
from mmattn.ops import reference
from mmattn.ops.grid import key_grid
from tests.compare import assert_same


@pytest.mark.parametrize('size', [(1, 1), (1, 6), (7, 5)])
def test_equals_the_formula_with_gradients(size):
    layer = DeformableDETRAttention(8, num_heads=2, num_points=3, map_size=(7, 5)).double()
    torch.nn.init.normal_(layer.proj_off.weight, std=0.1)
    torch.nn.init.normal_(layer.proj_att.weight)
    x = torch.randn(2, 8, *size, dtype=torch.double, requires_grad=True)
    pixels = x.permute(0, 2, 3, 1)
    offsets = layer.proj_off(pixels).view(2, *size, 2, 3, 2)
    points = key_grid(size, 'dat_pp').double()[:, :, None, None] + offsets              # (B, H, W, h, P, 2)
    weights = layer.proj_att(pixels).view(2, *size, 2, 3).softmax(-1)
    values = layer.proj_v(x)
    heads = [(reference.bilinear(values[:, 4 * h:4 * h + 4], points[:, :, :, h]) * weights[:, None, :, :, h]).sum(-1)
             for h in range(2)]
    assert_same(layer(x), layer.proj_out(torch.cat(heads, 1)), (x, *layer.parameters()))


def test_stored_references_serve_maps_of_their_size_only():
    layer = DeformableDETRAttention(8, 2, map_size=5)
    layer.reference += 0.5
    x = torch.zeros(1, 8, 5, 5)
    shifted = layer.sampling_points(x)
    x_wide = torch.zeros(1, 8, 5, 6)
    layer.reference -= 0.5
    torch.testing.assert_close(shifted, layer.sampling_points(x) + 0.5)
    assert layer.sampling_points(x_wide).shape == (1, 2, 5, 6, 4, 2)


def test_heads_start_in_directions_of_a_circle():
    layer = DeformableDETRAttention(16, num_heads=4, num_points=2, map_size=3)
    offsets = layer.sampling_points(torch.randn(1, 16, 3, 3)) - layer.reference[:, :, None]
    torch.testing.assert_close(offsets[0, :, 1, 1, 0], torch.tensor([[1., 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-6,
                               rtol=0)
    torch.testing.assert_close(offsets[0, :, 1, 1, 1], 2 * offsets[0, :, 1, 1, 0])


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match='embed_dims=10 is not divisible by num_heads=3'):
        DeformableDETRAttention(10, 3)
