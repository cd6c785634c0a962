import pytest
import torch

from mmattn.ops import reference, separable
from mmattn.ops.grid import query_grid
from mmattn.ops.separable import separable_attention
from tests.compare import assert_same, largest_tensor


def problem(size, keys, batch=2, heads=6, groups=3, dims=4, table=(5, 9), reach=1.2, dtype=torch.double):
    """Random q, k, v, points, table with gradients, and the grid of the queries."""
    tensors = [torch.randn(batch, heads, *size, dims, dtype=dtype),
               *(torch.randn(batch, heads, keys, dims, dtype=dtype) for _ in range(2)),
               (torch.rand(batch, groups, keys, 2) * 2 - 1).to(dtype) * reach,
               torch.randn(heads, *table, dtype=dtype)]
    grid = query_grid(size, 'dat').to(dtype)
    return [t.requires_grad_() for t in tensors], grid


def ours(tensors, grid, block=2 ** 21):
    return separable_attention(*tensors, grid[:, 0, 0], grid[0, :, 1], block=block)


def plain(tensors, grid):
    q, k, v, points, table = tensors
    return reference.deformable_attention(q.flatten(2, 3), k, v, points, table, grid.flatten(0, 1)).unflatten(
        2, grid.shape[:2])


@pytest.mark.parametrize(('size', 'keys'), [((1, 1), 1), ((1, 7), 3), ((5, 1), 4), ((7, 11), 20), ((3, 13), 1)])
@pytest.mark.parametrize('blocks', [(4096, 2 ** 21), (22, 70), (1, 1)])
def test_equals_the_formula_with_gradients(monkeypatch, size, keys, blocks):
    monkeypatch.setattr(separable, 'BLOCK_QUERIES', blocks[0])
    tensors, grid = problem(size, keys)
    assert_same(ours(tensors, grid, blocks[1]), plain(tensors, grid), tensors)


@pytest.mark.parametrize('reach', [3.0, 50.0])
def test_points_far_outside_the_image_read_zeros(reach):
    tensors, grid = problem((4, 5), 7, reach=reach)
    assert_same(ours(tensors, grid), plain(tensors, grid), tensors)
    far = [*tensors[:3], torch.full_like(tensors[3], 50.0), tensors[4]]
    without = reference.attention(tensors[0].flatten(2, 3), *tensors[1:3]).unflatten(2, (4, 5))
    torch.testing.assert_close(ours(far, grid), without)


@pytest.mark.parametrize('table', [(1, 1), (1, 9), (27, 3)])
def test_any_table(table):
    tensors, grid = problem((4, 5), 7, table=table)
    assert_same(ours(tensors, grid), plain(tensors, grid), tensors)


def test_gradients_by_finite_differences():
    tensors, grid = problem((2, 3), 3, batch=1, heads=2, groups=1, dims=2, table=(3, 5))
    assert torch.autograd.gradcheck(lambda *t: ours(t, grid), tensors)


def test_at_a_table_entry_the_slope_is_that_of_the_cell_above():
    tensors, grid = problem((1, 1), 2, batch=1, heads=1, groups=1, table=(5, 5))
    tensors[3] = torch.zeros_like(tensors[3]).requires_grad_()         # the query is at 0 too: entry (2, 2) exactly
    out = ours(tensors, grid)
    displacement = -tensors[3] / 2
    bias = torch.nn.functional.grid_sample(tensors[4][None], displacement.flip(-1), align_corners=True)
    assert_same(out[:, :, 0], reference.attention(tensors[0][:, :, 0], *tensors[1:3], bias), tensors)


def test_the_same_twice_to_the_bit():
    def once():
        torch.manual_seed(1)
        tensors, grid = problem((9, 10), 70, dtype=torch.float32)
        out = ours(tensors, grid)
        return out, *torch.autograd.grad(out.square().sum(), tensors)

    assert all(torch.equal(a, b) for a, b in zip(once(), once()))


def test_no_tensor_as_large_as_the_bias():
    tensors, grid = problem((16, 16), 256, batch=1, dtype=torch.float32, table=(31, 31))
    with largest_tensor() as largest:
        ours(tensors, grid, 2 ** 12).square().sum().backward()
    assert largest.numel < 256 * 256 / 4       # of one head alone


def test_low_precision_and_autocast_compute_in_float32():
    tensors, grid = problem((6, 7), 20, dtype=torch.float32)
    exact = ours(tensors, grid)
    low = [t.detach().bfloat16() for t in tensors[:3]] + tensors[3:]
    rounded = [t.float() for t in low]
    out = ours(low, grid)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, ours(rounded, grid).bfloat16())
    with torch.autocast('cpu', torch.bfloat16):
        again = ours(tensors, grid)
        assert torch.equal(again, exact)
        grads = torch.autograd.grad(again.square().sum(), tensors)
    for a, b in zip(grads, torch.autograd.grad(exact.square().sum(), tensors)):
        assert torch.equal(a, b)


def test_large_logits_stay_finite():
    tensors, grid = problem((3, 4), 5)
    with torch.no_grad():
        tensors[0] *= 1e4
        tensors[4] *= 1e4
    assert_same(ours(tensors, grid), plain(tensors, grid), tensors)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_points_that_are_not_numbers_reach_the_output(bad):
    tensors, grid = problem((3, 4), 5)
    with torch.no_grad():
        tensors[3][0, 0, 2] = bad
    out = ours(tensors, grid)
    assert not out[0, 0].isfinite().any() if bad != bad else out.shape == tensors[0].shape
    assert out[1].isfinite().all()
