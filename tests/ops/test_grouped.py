import pytest
import torch

from mmattn.ops import explain, grouped, reference
from mmattn.ops.dispatch import Implementation, for_comparison
from mmattn.ops.grouped import IMPLEMENTATIONS, grouped_attention
from tests.compare import assert_same, largest_tensor
from tests.ops.test_dispatch import set_budgets


def problem(size, group, dtype=torch.double, with_bias=True):
    """x, projections and a position bias with gradients; two heads."""
    def leaf(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    return (leaf(2, *size, 6), (leaf(18, 6), leaf(18) if with_bias else None),
            (leaf(6, 6), leaf(6) if with_bias else None), leaf(2, *(2 * side - 1 for side in group)))


def leaves(x, qkv, proj, table):
    return [t for t in (x, *qkv, *proj, table) if t is not None]


@pytest.mark.parametrize('size', [(1, 1), (4, 6), (7, 11), (13, 5)])
@pytest.mark.parametrize('group', [(2, 3), (4, 4)])
@pytest.mark.parametrize('interval', [1, 3])
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('backend', ['views', 'padded'])
def test_equals_the_formula_with_gradients(size, group, interval, with_bias, backend):
    args = problem(size, group, with_bias=with_bias)
    assert_same(grouped_attention(*args, 2, interval, backend), reference.grouped_attention(*args, 2, interval),
                leaves(*args))


@pytest.mark.parametrize('limit', [1, 100, 1000, 10000])
@pytest.mark.parametrize('group', [(3, 3), (6, 7)])         # seven tokens of a row of the map, the largest groups of it
def test_blocks_of_any_size_give_the_same(monkeypatch, limit, group):
    args = problem((11, 13), group)
    set_budgets(monkeypatch, IMPLEMENTATIONS, limit)
    assert_same(grouped_attention(*args, 2, 2), reference.grouped_attention(*args, 2, 2), leaves(*args))


def test_gradients_are_those_of_differences():
    x, qkv, proj, table = problem((3, 5), (2, 3))
    torch.autograd.gradcheck(lambda x, *rest: grouped_attention(x, rest[:2], rest[2:4], rest[4], 2, 2),
                             (x, *qkv, *proj, table))


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_autocast_reaches_the_backward_pass_and_comes_close(dtype, tolerance):
    args = problem((7, 9), (3, 3), torch.float32)
    exact = grouped_attention(*args, 2)
    with torch.autocast('cpu', dtype):
        out = grouped_attention(*args, 2)
    assert out.dtype == dtype
    assert (out - exact).norm() / exact.norm() < tolerance
    grads = torch.autograd.grad(exact.square().sum(), leaves(*args))
    for a, b in zip(torch.autograd.grad(out.float().square().sum(), leaves(*args)), grads):
        assert (a - b).norm() <= 3 * tolerance * b.norm() + 1e-2


@pytest.mark.parametrize('backend', ['views', 'padded', 'reference'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_runs_where_groups_have_no_pixel(dtype, backend):
    x, qkv, proj, table = problem((5, 4), (3, 3), torch.float32)
    exact = reference.grouped_attention(x, qkv, proj, table, 2, 4)
    low = grouped_attention(x.to(dtype), [t.to(dtype) for t in qkv], [t.to(dtype) for t in proj], table.to(dtype), 2, 4,
                            backend)
    assert (low - exact).norm() / exact.norm() < 3e-2


@pytest.mark.parametrize(('group', 'interval'), [((8, 8), 1), ((16, 16), 2)])
def test_nothing_as_large_as_all_logits_and_two_maps_are_kept(monkeypatch, group, interval):
    set_budgets(monkeypatch, IMPLEMENTATIONS, 2 ** 10)
    args = problem((32, 32), group)
    kept = []
    with largest_tensor() as largest, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t,
                                                                               lambda t: t):
        out = grouped_attention(*args, 2, interval)
    assert sum(t.numel() for t in kept) == sum(t.numel() for t in leaves(*args)) + args[0].numel()
    with largest_tensor() as backward:
        out.square().sum().backward()
    all_logits = 2 * 2 * 32 * 32 * group[0] * group[1]
    assert max(largest.numel, backward.numel) < 3 * args[0].numel() < all_logits / 7


def test_backend_can_be_forced(monkeypatch):
    args = *problem((4, 5), (2, 2)), 2
    plain = Implementation(lambda *args: 'plain', reservations=for_comparison)
    monkeypatch.setitem(IMPLEMENTATIONS.rows, 'reference', plain)
    assert grouped_attention(*args, backend='reference') == 'plain'
    monkeypatch.setenv('MMATTN_GROUPED_ATTENTION', 'reference')
    assert grouped_attention(*args) == 'plain'
    with pytest.raises(ValueError, match="backend='flash' is unknown; choose one of padded, reference, views"):
        grouped_attention(*args, backend='flash')


def test_where_calls_are_traced_the_plain_formula_is_the_fallback(monkeypatch):
    args = *problem((4, 5), (2, 2)), 2
    monkeypatch.setattr(grouped, 'is_traced', lambda: True)
    lines = explain(grouped_attention, *args).splitlines()
    assert lines[1:] == ['  padded: a few groups at a time fit the caches of a CPU',
                         '  views: its views of the map and its backward pass cannot be traced',
                         '  reference: runs, as the fallback (the plain formula, for comparison)']
    with pytest.raises(ValueError, match=r"^backend='views' cannot run: its views of the map and its backward pass"):
        grouped_attention(*args, backend='views')


def test_meta_tensors_have_shapes_and_gradients():
    tensors = [t.detach().to('meta').requires_grad_() for t in leaves(*problem((7, 11), (3, 4)))]
    out = grouped_attention(tensors[0], tensors[1:3], tensors[3:5], tensors[5], 2, 2)
    assert out.shape == tensors[0].shape
    assert [grad.shape for grad in torch.autograd.grad(out.sum(), tensors)] == [t.shape for t in tensors]
