import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from mmattn.errors import ArgumentError
from mmattn.layers import SpatialReductionAttention
from mmattn.ops import reference
from tests.compare import assert_same


@pytest.mark.parametrize('size', [(1, 1), (2, 9), (7, 5)])
@pytest.mark.parametrize('sr_ratio', [1, 3])
def test_equals_the_formula_with_gradients(size, sr_ratio):
    layer = SpatialReductionAttention(8, num_heads=2, sr_ratio=sr_ratio).double()
    x = torch.randn(2, 8, *size, dtype=torch.double, requires_grad=True)
    reduced = x
    if sr_ratio > 1:
        padded = F.pad(x, (0, max(3 - size[1], 0), 0, max(3 - size[0], 0)))
        conv, norm = layer.reduction
        cells = padded.unfold(2, 3, 3).unfold(3, 3, 3)                      # (B, C, y, x, 3, 3)
        reduced = torch.einsum('bcyxij,ocij->boyx', cells, conv.weight) + conv.bias.view(-1, 1, 1)
        reduced = norm(reduced)
    q, (k, v) = layer.q(x), layer.kv(reduced).chunk(2, 1)
    q, k, v = (rearrange(t, 'b (h d) y x -> b h (y x) d', h=2) for t in (q, k, v))
    out = rearrange(reference.attention(q, k, v), 'b h (y x) d -> b (h d) y x', y=size[0])
    assert_same(layer(x), layer.proj(out), (x, *layer.parameters()))


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match='sr_ratio=0 must be at least 1'):
        SpatialReductionAttention(8, 2, sr_ratio=0)
    with pytest.raises(ArgumentError, match='embed_dims=10 is not divisible by num_heads=3'):
        SpatialReductionAttention(10, 3)
