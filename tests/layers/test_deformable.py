import pytest
import torch
from einops import rearrange

from mmattn.layers import DeformableAttention
from mmattn.ops import reference
from mmattn.ops.grid import query_grid


def by_formula(layer, x):
    """The layer written out with the plain formulas."""
    q = layer.proj_q(x)
    points, _ = layer.sampling_points(q)
    groups = layer.offset_groups
    sampled = torch.cat([reference.bilinear(part, points[:, g]) for g, part in enumerate(x.chunk(groups, 1))], 1)
    q, k, v = (rearrange(t, 'b (h d) y x -> b h (y x) d', h=layer.num_heads)
               for t in (q, layer.proj_k(sampled), layer.proj_v(sampled)))
    queries = query_grid(x.shape[2:], layer.convention).to(x.dtype).flatten(0, 1)
    out = reference.deformable_attention(q, k, v, points.flatten(2, 3), layer.rpe_table, queries)
    return layer.proj_out(rearrange(out, 'b h (y x) d -> b (h d) y x', y=x.shape[2]))


@pytest.mark.parametrize('options', [
    dict(), dict(convention='dat_pp', offset_range_factor=-1.0), dict(stride=2, table_size=(3, 5)),
    dict(offset_groups=1, offset_kernel_size=3),
])
@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 1), (7, 11)])
def test_equals_the_formula_with_gradients(options, size):
    layer = DeformableAttention(12, num_heads=6, **dict(offset_groups=3, table_size=4) | options).double()
    torch.nn.init.normal_(layer.rpe_table)
    x = torch.randn(2, 12, *size, dtype=torch.double, requires_grad=True)
    ours, plain = layer(x), by_formula(layer, x)
    assert ours.shape == x.shape
    torch.testing.assert_close(ours, plain)
    inputs, weights = (x, *layer.parameters()), torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), inputs),
                    torch.autograd.grad((plain * weights).sum(), inputs)):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


def test_every_parameter_gets_a_gradient():
    layer = DeformableAttention(8, num_heads=4, offset_groups=2)
    layer(torch.randn(1, 8, 9, 10)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in layer.named_parameters()
               if name != 'proj_k.bias')        # softmax cancels a constant added to every key


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match='embed_dims=100 is not divisible by num_heads=3'):
        DeformableAttention(100, 3)
    with pytest.raises(ValueError, match='num_heads=4 is not divisible by offset_groups=3'):
        DeformableAttention(96, 4, offset_groups=3)
    with pytest.raises(ValueError, match="convention='v1' is unknown"):
        DeformableAttention(96, 4, convention='v1')
