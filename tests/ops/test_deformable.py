from types import SimpleNamespace

import pytest
import torch

from mmattn.ops import deformable, reference
from mmattn.ops.deformable import (
    IMPLEMENTATIONS,
    deform_points,
    deformable_attention,
    log_displacements,
    point_attention,
    position_bias,
    resize_fixed_bias,
    sample_groups,
)
from mmattn.ops.grid import key_grid, query_grid
from tests.compare import assert_same, largest_tensor
from tests.ops.test_dispatch import set_budgets


@pytest.mark.parametrize('convention', ['dat', 'dat_pp'])
def test_zero_offsets_give_the_reference_grid(convention):
    points, references = deform_points(torch.zeros(2, 3, 4, 5, 2), 2.0, convention)
    assert torch.equal(references, key_grid((4, 5), convention))
    assert torch.equal(points, references.expand(2, 3, -1, -1, -1))


def test_offsets_are_bounded_by_cells_or_kept_in_the_image():
    far = torch.full((1, 1, 4, 8, 2), 50.0)
    points, references = deform_points(far, 2.0, 'dat')
    torch.testing.assert_close(points - references, torch.tensor([2 / 4, 2 / 8]).expand_as(points))
    points, references = deform_points(far, 2.0, 'dat_pp')
    torch.testing.assert_close(points - references, torch.tensor([2 / 3, 2 / 7]).expand_as(points))
    for convention in ('dat', 'dat_pp'):
        points, _ = deform_points(far, -1, convention)
        assert torch.equal(points, torch.ones_like(points))
    near = torch.full((1, 1, 4, 8, 2), 0.1)
    points, references = deform_points(near, -1, 'dat')
    torch.testing.assert_close(points[0, 0], (references + 0.1).tanh())


def test_range_factor_zero_frees_offsets_or_stops_them():
    offsets = torch.full((1, 1, 4, 8, 2), 5.0)
    points, references = deform_points(offsets, 0, 'dat')
    torch.testing.assert_close(points[0, 0], references + 5)
    points, references = deform_points(offsets, 0, 'dat_pp')
    assert torch.equal(points[0, 0], references)


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
@pytest.mark.parametrize('backend', ['dense', 'separable', 'reference'])
def test_deformable_attention_equals_the_formula_with_gradients(size, keys, convention, backend):
    batch, heads, groups, dims = 2, 6, 3, 4
    q = torch.randn(batch, heads, *size, dims, dtype=torch.double, requires_grad=True)
    k, v = (torch.randn(batch, heads, *keys, dims, dtype=torch.double, requires_grad=True) for _ in range(2))
    points = (torch.rand(batch, groups, *keys, 2, dtype=torch.double) * 2.4 - 1.2).requires_grad_()
    table = torch.randn(heads, 5, 9, dtype=torch.double, requires_grad=True)
    ours = deformable_attention(q, k, v, points, table, convention, backend=backend)
    queries = query_grid(size, convention).double().flatten(0, 1)
    theirs = reference.deformable_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), points.flatten(2, 3),
                                            table, queries).unflatten(2, size)
    assert_same(ours, theirs, (q, k, v, points, table))


def arguments(size, keys, heads=2, dims=4):
    """Of `deformable_attention`, for maps of zeros."""
    q, k = torch.zeros(1, heads, *size, dims), torch.zeros(1, heads, *keys, dims)
    return q, k, k, torch.zeros(1, 1, *keys, 2), torch.zeros(heads, 3, 3), 'dat'


def test_large_maps_do_not_hold_the_bias_and_small_ones_do():
    assert IMPLEMENTATIONS.choose(None, *arguments((32, 64), (32, 64)), 0.0) == 'separable'
    assert IMPLEMENTATIONS.choose(None, *arguments((32, 64), (8, 8)), 0.0) == 'dense'       # the largest of small ones
    assert IMPLEMENTATIONS.choose(None, *arguments((32, 64), (8, 9)), 0.0) == 'separable'


def test_only_dense_drops_weights():
    args = arguments((32, 64), (32, 64))
    assert IMPLEMENTATIONS.choose(None, *args, 0.1) == 'dense'
    for name in ('triton', 'separable', 'reference'):
        assert IMPLEMENTATIONS.rows[name].refusals(*args, 0.1) == ['only dense drops attention weights']


@pytest.mark.parametrize('backend', [None, 'separable'])
def test_meta_tensors_have_shapes_and_gradients(backend):
    inputs = [t.to('meta').requires_grad_() for t in arguments((32, 64), (32, 64))[:-1]]
    out = deformable_attention(*inputs, 'dat', backend=backend)
    assert out.shape == inputs[0].shape
    assert [grad.shape for grad in torch.autograd.grad(out.sum(), inputs)] == [t.shape for t in inputs]


def test_on_other_devices_small_products_are_for_deterministic_algorithms(monkeypatch):
    args = [t.to('meta') if isinstance(t, torch.Tensor) else t for t in arguments((32, 64), (32, 64))]
    assert IMPLEMENTATIONS.choose(None, *args, 0.0) == 'dense'
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    assert IMPLEMENTATIONS.choose(None, *args, 0.0) == 'separable'


@pytest.mark.parametrize('logits', [1, 100, 2 ** 20])
def test_the_bias_is_held_for_as_many_queries_as_there_is_memory(monkeypatch, logits):
    set_budgets(monkeypatch, IMPLEMENTATIONS, logits)
    q, k, v, points, table, _ = arguments((4, 5), (2, 3))
    inputs = [torch.randn_like(t).requires_grad_() for t in (q, k, v, points, table)]
    with largest_tensor() as largest:
        out = deformable_attention(*inputs, 'dat', backend='dense')
    assert largest.numel <= max(logits, q.numel(), 2 * 6 * 2) or logits == 2 ** 20
    assert_same(out, deformable_attention(*inputs, 'dat', backend='reference'), inputs)


def test_on_cuda_the_kernels_come_first(monkeypatch):
    """On a machine with no such device: what it would be asked is made up."""
    monkeypatch.setattr(deformable, 'kernel_refusals', lambda tensors, dims: [])
    monkeypatch.setattr('mmattn.ops.kernels.deformable.trial', lambda device, dtype, dims: None)
    q = SimpleNamespace(device=torch.device('cuda'), shape=torch.Size((1, 2, 32, 64, 16)), dtype=torch.float16)
    points, table = torch.zeros(1, 1, 32, 64, 2), torch.zeros(2, 3, 3)

    def chosen(q, table=table, dropout=0.0):
        return IMPLEMENTATIONS.choose(None, q, q, q, points, table, 'dat', dropout)
    assert chosen(q) == 'triton'
    assert chosen(q, table=None) == 'dense'
    assert chosen(q, dropout=0.1) == 'dense'
    monkeypatch.setattr('mmattn.ops.kernels.deformable.trial', lambda device, dtype, dims: 'it errs')
    assert chosen(q) == 'dense'
    with pytest.raises(ValueError, match=r"^backend='triton' cannot run: it errs$"):
        IMPLEMENTATIONS.choose('triton', q, q, q, points, table, 'dat', 0.0)


def test_backend_can_be_forced_and_refuses_with_reasons(monkeypatch):
    args = arguments((3, 5), (2, 2))
    called = []
    monkeypatch.setattr(deformable, 'separable_attention', lambda *args, **kwargs: called.append(args) or args[0])
    deformable_attention(*args)
    assert not called
    deformable_attention(*args, backend='separable')
    monkeypatch.setenv('MMATTN_DEFORMABLE_ATTENTION', 'separable')
    deformable_attention(*args)
    assert len(called) == 2
    with pytest.raises(ValueError, match="backend='fast' is unknown; choose one of dense, reference, separable, trit"):
        deformable_attention(*args, backend='fast')
    with pytest.raises(ValueError, match='MMATTN_DEFORMABLE_ATTENTION=separable cannot run: only dense drops'):
        deformable_attention(*args, dropout=0.5)


def test_without_a_table_it_is_plain_attention():
    q, k, v = (torch.randn(1, 2, *size, 4) for size in ((3, 5), (2, 2), (2, 2)))
    out = deformable_attention(q, k, v, torch.zeros(1, 1, 2, 2, 2), None, 'dat')
    plain = reference.attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3)).unflatten(2, (3, 5))
    torch.testing.assert_close(out, plain)
    torch.testing.assert_close(deformable_attention(q, k, v, torch.zeros(1, 1, 2, 2, 2), None, 'dat',
                                                    backend='reference'), plain)
    with pytest.raises(ValueError, match="backend='separable' cannot run: without a table there is no bias to avoid"):
        deformable_attention(q, k, v, torch.zeros(1, 1, 2, 2, 2), None, 'dat', backend='separable')


def test_log_displacements_by_hand():
    queries, points = torch.tensor([[0.5, -1.0]]), torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)
    # 4 x displacement: 1 and -7
    assert log_displacements(queries, points).flatten().tolist() == pytest.approx([1 / 3, -1])


def test_fixed_bias_is_kept_at_its_size_and_stretched_to_others():
    table = torch.randn(2, 4, 3)
    assert resize_fixed_bias(table, 4, 3) is table
    stretched = resize_fixed_bias(table, 7, 5)
    torch.testing.assert_close(stretched[:, ::2, ::2], table)
    torch.testing.assert_close(stretched[:, 1, 0], (table[:, 0, 0] + table[:, 1, 0]) / 2)


def test_point_attention_equals_the_formula_with_gradients():
    values = torch.randn(2, 3, 4, 5, 7, dtype=torch.double, requires_grad=True)
    points = (torch.rand(2, 3, 2, 6, 4, 2, dtype=torch.double) * 2.4 - 1.2).requires_grad_()
    weights = torch.randn(2, 3, 2, 6, 4, dtype=torch.double, requires_grad=True)
    plain = torch.stack([reference.bilinear(values[:, h], points[:, h]) for h in range(3)], 1)     # (B, h, d, 2, 6, P)
    assert_same(point_attention(values, points, weights), (plain * weights[:, :, None]).sum(-1),
                (values, points, weights))
