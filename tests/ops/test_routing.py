import pytest
import torch

from mmattn.ops import reference
from mmattn.ops.dispatch import Implementation, for_comparison
from mmattn.ops.routing import IMPLEMENTATIONS, region_view, routed_attention, top_routes
from tests.compare import assert_same, largest_tensor
from tests.ops.test_dispatch import set_budgets


def problem(grid=(2, 3), routes=3):
    """q, k, v, route weights with gradients; routes; and a key mask with a real key in every region."""
    regions = grid[0] * grid[1]
    q, k, v, weights = (torch.randn(2, grid[0] * y, grid[1] * x, c, dtype=torch.double, requires_grad=True)
                        for y, x, c in ((5, 1, 4), (1, 3, 4), (1, 3, 8), (1, 1, routes)))
    chosen = torch.rand(2, *grid, regions).topk(routes).indices
    mask = torch.rand(2, grid[0], 3 * grid[1]) > 0.4
    mask[:, :, ::3] = True
    return q, k, v, weights, chosen, mask


@pytest.mark.parametrize('block', [2 ** 22, 150, 1])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_the_formula_with_gradients(monkeypatch, block, weighted, masked):
    set_budgets(monkeypatch, IMPLEMENTATIONS, block)
    q, k, v, weights, chosen, mask = problem()
    args = (q, k, v, chosen, 2, 0.3, weights if weighted else None, mask if masked else None)
    assert_same(routed_attention(*args), reference.routed_attention(*args), (q, k, v, *[weights] * weighted))


def test_two_regions_by_hand():
    q, k = torch.zeros(1, 1, 2, 1), torch.zeros(1, 2, 2, 1)
    v = torch.tensor([[[[1.], [10.]], [[3.], [30.]]]])
    routes = torch.tensor([[[[1], [0]]]])
    assert routed_attention(q, k, v, routes, 1, 1.0).flatten().tolist() == [20, 2]
    both = torch.tensor([[[[1, 0], [0, 1]]]])
    assert routed_attention(q, k, v, both, 1, 1.0).flatten().tolist() == [11, 11]


def test_regions_are_seen_row_by_row():
    x = torch.arange(24).view(1, 4, 6, 1)
    assert region_view(x, (2, 3))[0, 1, 2].flatten().tolist() == [16, 17, 22, 23]
    assert region_view(x, (2, 3)).data_ptr() == x.data_ptr()


def test_routes_are_the_largest_products_of_usable_regions():
    q, k = torch.tensor([[[[1., 0], [0, 1]]]]), torch.tensor([[[[3., 5.], [2., 7.]]]])
    routes, logits = top_routes(q, k, 1, 0.5)
    assert routes.shape == (1, 1, 2, 1)
    assert routes.flatten().tolist() == [0, 1]
    assert logits.flatten().tolist() == [1.5, 3.5]
    assert top_routes(q, k, 1, 0.5, torch.tensor([[[False, True]]]))[0].flatten().tolist() == [1, 1]


def test_nothing_of_the_size_regions_by_regions_by_tokens(monkeypatch):
    set_budgets(monkeypatch, IMPLEMENTATIONS, 2 ** 10)
    q, k, v = (torch.randn(1, 32, 32, 8, requires_grad=True) for _ in range(3))
    chosen = torch.rand(1, 8, 8, 64).topk(4).indices
    with largest_tensor() as largest:
        routed_attention(q, k, v, chosen, 2, 0.3).square().sum().backward()
    assert largest.numel <= q.numel()


def test_backend_can_be_forced(monkeypatch):
    q, k, v, _, chosen, _ = problem()
    plain = Implementation(lambda *args: 'plain', reservations=for_comparison)
    monkeypatch.setitem(IMPLEMENTATIONS.rows, 'reference', plain)
    assert routed_attention(q, k, v, chosen, 2, 0.3, backend='reference') == 'plain'
    monkeypatch.setenv('MMATTN_ROUTED_ATTENTION', 'reference')
    assert routed_attention(q, k, v, chosen, 2, 0.3) == 'plain'
    with pytest.raises(ValueError, match="backend='flex' is unknown; choose one of gathered, reference, triton"):
        routed_attention(q, k, v, chosen, 2, 0.3, backend='flex')


def test_meta_tensors_have_shapes_and_gradients():
    q, k, v, weights, chosen, mask = (t.detach().to('meta') for t in problem())
    inputs = [t.requires_grad_() for t in (q, k, v, weights)]
    out = routed_attention(q, k, v, chosen, 2, 0.3, weights, mask)
    assert out.shape == (*q.shape[:3], v.shape[3])
    assert [grad.shape for grad in torch.autograd.grad(out.sum(), inputs)] == [t.shape for t in inputs]
