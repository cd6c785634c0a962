import pytest
import torch

from mmattn.ops import grouped, reference
from mmattn.ops.grouped import grouped_attention
from tests.compare import assert_same, largest_tensor


def problem(size, group, dtype=torch.double):
    """q, k, v and a bias with gradients; two heads."""
    q, k, v = (torch.randn(2, *size, 6, dtype=dtype, requires_grad=True) for _ in range(3))
    return q, k, v, torch.randn(2, *group, *group, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize('size', [(1, 1), (4, 6), (7, 11), (13, 5)])
@pytest.mark.parametrize('group', [(2, 3), (4, 4)])
@pytest.mark.parametrize('interval', [1, 3])
def test_equals_the_formula_with_gradients(size, group, interval):
    q, k, v, bias = problem(size, group)
    args = q, k, v, bias, 2, interval
    assert_same(grouped_attention(*args), reference.grouped_attention(*args), (q, k, v, bias))


@pytest.mark.parametrize('limit', [1, 100, 1000])
def test_blocks_of_any_size_give_the_same(monkeypatch, limit):
    q, k, v, bias = problem((11, 13), (3, 3))
    monkeypatch.setitem(grouped.BLOCK_LOGITS, 'cpu', limit)
    args = q, k, v, bias, 2, 2
    assert_same(grouped_attention(*args), reference.grouped_attention(*args), (q, k, v, bias))


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_low_precision_keeps_its_dtype_and_comes_close(dtype, tolerance):
    q, k, v, bias = problem((7, 9), (3, 3), torch.float32)
    exact = grouped_attention(q, k, v, bias, 2)
    low = [t.detach().to(dtype).requires_grad_() for t in (q, k, v)]
    out = grouped_attention(*low, bias, 2)
    assert out.dtype == dtype
    assert (out - exact).norm() / exact.norm() < tolerance
    grads = torch.autograd.grad(exact.sum(), (q, k, v, bias))
    for a, b in zip(torch.autograd.grad(out.float().sum(), (*low, bias)), grads):
        assert (a - b).norm() <= 3 * tolerance * b.norm() + 1e-2


def test_nothing_as_large_as_all_logits(monkeypatch):
    monkeypatch.setitem(grouped.BLOCK_LOGITS, 'cpu', 2 ** 10)
    q, k, v, bias = problem((32, 32), (8, 8))
    with largest_tensor() as largest:
        grouped_attention(q, k, v, bias, 2).square().sum().backward()
    assert largest.numel == q.numel()        # all logits would be 2 x 2 x 32 x 32 x 64


def test_backend_can_be_forced(monkeypatch):
    args = *problem((4, 5), (2, 2)), 2
    monkeypatch.setattr('mmattn.ops.reference.grouped_attention', lambda *args: 'plain')
    assert grouped_attention(*args, backend='reference') == 'plain'
    monkeypatch.setenv('MMATTN_GROUPED_ATTENTION', 'reference')
    assert grouped_attention(*args) == 'plain'
    with pytest.raises(ValueError, match="backend='flash' is unknown; choose one of reference, views"):
        grouped_attention(*args, backend='flash')
