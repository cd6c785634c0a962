import pytest
import torch

from mmattn.ops import reference
from mmattn.ops.neighborhood import IMPLEMENTATIONS, _Axis, _Run, neighborhood_attention, window_start
from tests.compare import assert_same
from tests.ops.test_dispatch import set_budgets


def problem(size, kernel, batch=2, dtype=torch.double):
    qkv = [torch.randn(batch, 3, *size, 4, dtype=dtype, requires_grad=True) for _ in range(3)]
    return [*qkv, torch.randn(3, 2 * kernel - 1, 2 * kernel - 1, dtype=dtype, requires_grad=True)]


def plain(q, k, v, table, kernel):
    return reference.neighborhood_attention(q, k, v, table, kernel)


@pytest.mark.parametrize(('size', 'kernel'), [((1, 1), 3), ((1, 20), 7), ((5, 6), 7), ((7, 7), 7), ((8, 8), 3),
                                              ((9, 17), 5), ((3, 26), 5), ((25, 11), 7), ((21, 2), 13),
                                              ((17, 4), 9)])
@pytest.mark.parametrize('block', [2 ** 21, 1])
@pytest.mark.parametrize('device', ['cpu', 'other'])
def test_equals_the_formula_with_gradients(monkeypatch, size, kernel, block, device):
    set_budgets(monkeypatch, IMPLEMENTATIONS, block)
    if device == 'other':
        monkeypatch.setattr(_Axis, 'runs', lambda axis, device: [_Run(0, axis.tiles, axis.outside(device))])
    tensors = problem(size, kernel)
    assert_same(neighborhood_attention(*tensors, kernel), plain(*tensors, kernel), tensors)


@pytest.mark.parametrize('kernel', [1, 3, 7, 9, 13, 21])
def test_windows_lie_in_the_strips_of_their_tiles(kernel):
    for side in range(1, 60):
        axis = _Axis(side, kernel)
        inside = ~axis.outside(torch.device('cpu'))
        assert inside.any(-1).all()         # of what completes a tile too: no softmax over nothing
        for i in range(side):
            tile, place = divmod(i - axis.start, axis.tile)
            keys = inside[tile, place].nonzero().flatten() + axis.start + tile * axis.tile - axis.reach
            first = window_start(i, side, kernel)
            assert keys.tolist() == list(range(first, first + min(kernel, side)))


def test_gradients_by_finite_differences():
    tensors = problem((4, 5), 3, batch=1)
    assert torch.autograd.gradcheck(lambda *t: neighborhood_attention(*t, 3), tensors)


def test_window_of_a_corner_pixel_by_hand():
    q = torch.zeros(1, 1, 5, 5, 1)
    v = torch.arange(25.).view(1, 1, 5, 5, 1)
    out = neighborhood_attention(q, q, v, torch.zeros(1, 5, 5), 3)[0, 0, :, :, 0]
    assert out[0, 0].item() == pytest.approx(6)         # mean of rows and columns 0 to 2
    assert out[2, 4].item() == pytest.approx(13)        # rows 1 to 3, columns 2 to 4


def test_bias_is_indexed_by_key_minus_query():
    q = torch.zeros(1, 1, 1, 4, 1)
    v = torch.arange(4.).view(1, 1, 1, 4, 1)
    table = torch.full((1, 5, 5), -1e4)
    table[0, 2, 3] = 0                                  # only the key one to the right
    out = neighborhood_attention(q, q, v, table, 3)
    assert out[0, 0, 0, :3, 0].tolist() == pytest.approx([1, 2, 3])


def test_transposed_input_gives_transposed_output():
    q, k, v, table = problem((6, 19), 5)
    out = neighborhood_attention(q, k, v, table, 5)
    q, k, v = (t.transpose(2, 3) for t in (q, k, v))
    torch.testing.assert_close(neighborhood_attention(q, k, v, table.transpose(1, 2), 5).transpose(2, 3), out)


def test_dropout_drops_weights():
    q = torch.zeros(1, 1, 6, 6, 2)
    v = torch.ones(1, 1, 6, 6, 2)
    out = neighborhood_attention(q, q, v, torch.zeros(1, 5, 5), 3, dropout=0.5)
    assert out.unique().numel() > 1


def test_low_precision_stays_close():
    tensors = problem((9, 12), 5, dtype=torch.float32)
    exact = neighborhood_attention(*tensors, 5)
    low = neighborhood_attention(*(t.bfloat16() for t in tensors), 5)
    assert low.dtype == torch.bfloat16
    assert ((low - exact).norm() / exact.norm()).item() < 1e-2


def test_backend_can_be_forced_and_refuses_with_reasons(monkeypatch):
    tensors = problem((3, 4), 3)
    wanted = neighborhood_attention(*tensors, 3)
    called = []
    monkeypatch.setattr(reference, 'neighborhood_attention', lambda *args: called.append(args) or wanted)
    assert neighborhood_attention(*tensors, 3, backend='reference') is wanted
    monkeypatch.setenv('MMATTN_NEIGHBORHOOD_ATTENTION', 'reference')
    assert neighborhood_attention(*tensors, 3) is wanted
    assert len(called) == 2
    assert neighborhood_attention(*tensors, 3, backend='tiles') is not wanted
    with pytest.raises(ValueError, match=r'^MMATTN_NEIGHBORHOOD_ATTENTION=reference cannot run: only tiles drops '
                                         r'attention weights$'):
        neighborhood_attention(*tensors, 3, dropout=0.5)
    with pytest.raises(ValueError, match=r"^backend='natten' is unknown; choose one of reference, tiles, triton$"):
        neighborhood_attention(*tensors, 3, backend='natten')


def test_the_plain_formula_takes_maps_without_a_batch():
    q, k, v, table = problem((4, 5), 3)
    alone = reference.neighborhood_attention(q[1], k[1], v[1], table, 3)
    torch.testing.assert_close(alone, plain(q, k, v, table, 3)[1])


def test_meta_tensors_have_shapes_and_gradients():
    tensors = [t.detach().to('meta').requires_grad_() for t in problem((9, 12), 5)]
    out = neighborhood_attention(*tensors, 5)
    assert out.shape == tensors[0].shape
    assert [grad.shape for grad in torch.autograd.grad(out.sum(), tensors)] == [t.shape for t in tensors]
