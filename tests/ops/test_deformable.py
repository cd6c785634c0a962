import pytest
import torch

from mmattn.ops import reference
from mmattn.ops.deformable import deform_points, deformable_attention, position_bias, sample_groups
from mmattn.ops.grid import key_grid, query_grid


@pytest.mark.parametrize('convention', ['dat', 'dat_pp'])
def test_zero_offsets_give_the_reference_grid(convention):
    points, references = deform_points(torch.zeros(2, 3, 4, 5, 2), 2.0, convention)
    assert torch.equal(references, key_grid((4, 5), convention))
    assert torch.equal(points, references.expand(2, 3, -1, -1, -1))


def test_offsets_are_bounded_by_cells_or_clamped_to_the_image():
    far = torch.full((1, 1, 4, 8, 2), 50.0)
    points, references = deform_points(far, 2.0, 'dat')
    torch.testing.assert_close(points - references, torch.tensor([2 / 4, 2 / 8]).expand_as(points))
    clamped, _ = deform_points(far, -1, 'dat_pp')
    assert torch.equal(clamped, torch.ones_like(clamped))


def test_points_stay_in_float32_for_low_precision_offsets():
    points, references = deform_points(torch.zeros(1, 1, 3, 7, 2, dtype=torch.bfloat16), 2.0, 'dat')
    assert points.dtype == references.dtype == torch.float32


def test_each_group_reads_its_own_points():
    x = torch.arange(6.).view(1, 2, 1, 3)           # groups of one channel: [0 1 2] and [3 4 5]
    points = torch.zeros(1, 2, 1, 1, 2)
    points[0, 0, ..., 1], points[0, 1, ..., 1] = -1, 1
    assert sample_groups(x, points).flatten().tolist() == [0, 5]


def test_bias_is_the_table_entry_at_whole_displacements():
    # On a map of the table's own size, queries and unmoved keys differ by whole cells of the 'dat' grid: with
    # displacement d cells of n the table of 2 n - 1 entries is read at n - 1 + d (n - 1) / n.
    n = 5
    table = torch.arange(2. * n - 1).expand(1, 2 * n - 1, -1).contiguous()      # value = column
    queries = query_grid((1, n), 'dat').view(-1, 2)
    points = key_grid((1, n), 'dat').view(1, 1, -1, 2)
    bias = position_bias(table, queries, points)[0, 0]
    column = torch.arange(n, dtype=torch.float32)
    expected = n - 1 + (column[:, None] - column) * (n - 1) / n
    torch.testing.assert_close(bias, expected)


@pytest.mark.parametrize(('size', 'keys'), [((3, 5), (3, 5)), ((7, 2), (4, 1)), ((1, 1), (1, 1)), ((1, 11), (1, 3))])
@pytest.mark.parametrize('convention', ['dat', 'dat_pp'])
def test_deformable_attention_equals_the_formula_with_gradients(size, keys, convention):
    batch, heads, groups, dims = 2, 6, 3, 4
    q = torch.randn(batch, heads, *size, dims, dtype=torch.double, requires_grad=True)
    k, v = (torch.randn(batch, heads, *keys, dims, dtype=torch.double, requires_grad=True) for _ in range(2))
    points = (torch.rand(batch, groups, *keys, 2, dtype=torch.double) * 2.4 - 1.2).requires_grad_()
    table = torch.randn(heads, 5, 9, dtype=torch.double, requires_grad=True)
    ours = deformable_attention(q, k, v, points, table, convention)
    queries = query_grid(size, convention).double().flatten(0, 1)
    theirs = reference.deformable_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), points.flatten(2, 3),
                                            table, queries).unflatten(2, size)
    torch.testing.assert_close(ours, theirs)
    weights, inputs = torch.randn_like(ours), (q, k, v, points, table)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), inputs),
                    torch.autograd.grad((theirs * weights).sum(), inputs)):
        torch.testing.assert_close(a, b)


def test_without_a_table_it_is_plain_attention():
    q, k, v = (torch.randn(1, 2, *size, 4) for size in ((3, 5), (2, 2), (2, 2)))
    out = deformable_attention(q, k, v, torch.zeros(1, 1, 2, 2, 2), None, 'dat')
    plain = reference.attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3)).unflatten(2, (3, 5))
    torch.testing.assert_close(out, plain)
