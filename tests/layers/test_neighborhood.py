import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from mmattn.errors import ArgumentError
from mmattn.layers import NeighborhoodAttention
from mmattn.ops import reference
from tests.compare import assert_same


def by_formula(layer, x):
    height, width = x.shape[2:]
    if layer.pad_small:
        x = F.pad(x, (0, max(layer.kernel_size - width, 0), 0, max(layer.kernel_size - height, 0)))
    q, k, v = rearrange(layer.qkv(x.permute(0, 2, 3, 1)), 'b y x (three h d) -> three b h y x d', three=3,
                        h=layer.num_heads)
    out = torch.stack([reference.neighborhood_attention(*qkv, layer.rpb, layer.kernel_size) for qkv in zip(q, k, v)])
    out = layer.proj(rearrange(out, 'b h y x d -> b y x (h d)'))
    return out[:, :height, :width].permute(0, 3, 1, 2)


@pytest.mark.parametrize('size', [(1, 1), (3, 11), (5, 5), (12, 9)])
@pytest.mark.parametrize('pad_small', [True, False])
def test_equals_the_formula_with_gradients(size, pad_small):
    layer = NeighborhoodAttention(6, num_heads=3, kernel_size=5, pad_small=pad_small).double()
    torch.nn.init.normal_(layer.rpb)
    x = torch.randn(2, 6, *size, dtype=torch.double, requires_grad=True)
    assert layer(x).shape == x.shape
    assert_same(layer(x), by_formula(layer, x), (x, *layer.parameters()))


def test_padding_of_small_maps_takes_part():
    layer = NeighborhoodAttention(6, 3, kernel_size=5)
    x = torch.randn(1, 6, 3, 3)
    padded = layer(x)
    layer.pad_small = False
    assert not torch.allclose(padded, layer(x))


@pytest.mark.parametrize('kernel_size', [1, 4, -3])
def test_bad_arguments_are_named(kernel_size):
    with pytest.raises(ArgumentError, match=f'kernel_size={kernel_size} must be odd and at least 3'):
        NeighborhoodAttention(6, 3, kernel_size=kernel_size)
    with pytest.raises(ArgumentError, match='embed_dims=10 is not divisible by num_heads=3'):
        NeighborhoodAttention(10, 3)
