import pytest
import torch

from mmattn.ops import fused
from mmattn.ops.deformable import deformable_attention
from mmattn.ops.grid import query_grid
from mmattn.ops.separable import separable_attention
from tests.ops.compiled import assert_fits, usage_of

pytest.importorskip('triton', reason='Triton is not installed')

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'       # there, the interpreter runs them
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _without_trial(request, monkeypatch):
    if 'trial' not in request.function.__name__:
        monkeypatch.setattr('mmattn.ops.kernels.deformable.trial', lambda *args: None)


def launches(dtype, dims, size=(50, 80), keys=(50, 80)):
    """What a training step of a layer of DAT launches, in channels-first memory."""
    from mmattn.ops.kernels.deformable import deformable_attention

    def leaf(*shape, dtype):
        return torch.empty(shape, dtype=dtype, device='meta')

    low = getattr(torch, dtype)
    q = leaf(2, 12, dims, *size, dtype=low).movedim(2, 4).requires_grad_()
    k, v = (leaf(2, 12, dims, *keys, dtype=low).movedim(2, 4).requires_grad_() for _ in range(2))
    points, table = (leaf(*shape, dtype=torch.float32).requires_grad_() for shape in ((2, 3, *keys, 2), (12, 27, 27)))
    out = deformable_attention(q, k, v, points, table, 'dat')
    torch.autograd.grad(out, (q, k, v, points, table), torch.empty_like(out))


def problem(size, keys, dims=16, batch=1, heads=1, groups=1, table=(9, 11), reach=1.2, dtype=torch.float32):
    tensors = [torch.randn(batch, heads, *size, dims), *(torch.randn(batch, heads, *keys, dims) for _ in range(2)),
               (torch.rand(batch, groups, *keys, 2) * 2 - 1) * reach, torch.randn(heads, *table)]
    return [t.to(DEVICE, dtype if i < 3 else None) for i, t in enumerate(tensors)]


def run(tensors, convention='dat', weights=None, backend='triton'):
    """The output and all gradients."""
    inputs = [t.detach().requires_grad_() for t in tensors]
    out = deformable_attention(*inputs, convention, backend=backend)
    weights = torch.randn_like(out) if weights is None else weights.to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, weights)]


def assert_right(tensors, convention='dat'):
    """The kernels give what the exact form gives in float64."""
    torch.manual_seed(1)
    weights = torch.randn(tensors[0].shape)
    results = run(tensors, convention, weights)
    inputs = [t.double().requires_grad_() for t in tensors]
    grid = query_grid(tensors[0].shape[2:4], convention).double().to(DEVICE)
    wanted = separable_attention(inputs[0], inputs[1].flatten(2, 3), inputs[2].flatten(2, 3), inputs[3].flatten(2, 3),
                                 inputs[4], grid[:, 0, 0], grid[0, :, 1], block=2 ** 21)
    wanted = [wanted.detach(), *torch.autograd.grad(wanted, inputs, weights.to(tensors[0]).double())]
    for name, result, right in zip(('output', 'q', 'k', 'v', 'points', 'table'), results, wanted):
        error = (result.double() - right).norm()
        assert error < TOLERANCES[tensors[0].dtype] * right.norm() + 1e-6, (name, error, right.norm())


@pytest.mark.parametrize(('size', 'keys'), [((1, 3), (2, 2)), ((5, 7), (3, 4)), ((9, 19), (5, 14)), ((2, 33), (1, 5))])
@pytest.mark.parametrize('convention', ['dat', 'dat_pp'])
def test_values_and_gradients(size, keys, convention):
    assert_right(problem(size, keys), convention)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    assert_right(problem((5, 18), (5, 14), dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize('dims', [1, 8, 24, 32, 48])
def test_any_channels_of_a_head(dims):
    assert_right(problem((3, 5), (3, 4), dims))


@pytest.mark.slow
@pytest.mark.parametrize('dims', [64, 96, 128])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_many_channels_of_a_head(dims, dtype):
    assert_right(problem((5, 18), (5, 14), dims, dtype=dtype))


def test_images_heads_and_groups():
    assert_right(problem((5, 7), (4, 4), batch=2, heads=4, groups=2, table=(5, 9)))


@pytest.mark.parametrize('reach', [3.0, 50.0])
def test_points_far_outside_the_image(reach):
    assert_right(problem((4, 5), (3, 4), reach=reach))


@pytest.mark.parametrize('table', [(1, 1), (1, 9), (13, 3)])
def test_any_table(table):
    tensors = problem((4, 5), (3, 4), table=table)
    results, wanted = (run(tensors, weights=torch.ones_like(tensors[0]) * tensors[0], backend=name)
                       for name in ('triton', 'separable'))
    for result, right in zip(results, wanted):
        torch.testing.assert_close(result, right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('arrange', [
    lambda t: t.movedim(-1, 1).contiguous().movedim(1, -1), lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    lambda t: torch.stack([t, t], -1)[..., 0], lambda t: torch.cat([t, t], 3)[:, :, :, :t.shape[3]]])
def test_any_strides(arrange):
    tensors = problem((3, 5), (2, 3), heads=2)
    weights = torch.randn(tensors[0].shape)
    arranged = [*map(arrange, tensors[:3]), tensors[3].flip(-1).contiguous().flip(-1), tensors[4].mT.contiguous().mT]
    for a, b in zip(run(arranged, weights=arrange(weights)), run(tensors, weights=weights)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_every_number_is_written_and_the_same_twice_to_the_bit(monkeypatch):
    from mmattn.ops.kernels import deformable as kernels
    tensors = problem((5, 18), (3, 5))
    weights = torch.randn(tensors[0].shape)
    first = run(tensors, weights=weights)
    empty_like, new_empty = torch.empty_like, torch.Tensor.new_empty
    monkeypatch.setattr(kernels.torch, 'empty_like', lambda t: empty_like(t).fill_(torch.nan))
    monkeypatch.setattr(torch.Tensor, 'new_empty',
                        lambda t, *shape, **options: new_empty(t, *shape, **options).fill_(torch.nan))
    assert all(torch.equal(a, b) for a, b in zip(first, run(tensors, weights=weights)))


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_numbers_that_are_not_finite(bad):
    tensors = problem((2, 3), (2, 2))
    tensors[3][0, 0, 0, 0, 1] = bad
    out = deformable_attention(*tensors, 'dat', backend='triton')
    assert out.isnan().all() if bad != bad else out.isfinite().all()


def test_maps_too_large_for_32_bits_count_in_64(monkeypatch):
    from mmattn.ops.kernels import common
    from mmattn.ops.kernels import deformable as kernels
    tensors = problem((4, 5), (3, 4))
    weights = torch.randn(tensors[0].shape)
    first = run(tensors, weights=weights)
    monkeypatch.setattr(kernels, 'index_type', lambda *tensors: common.tl.int64)
    assert all(torch.equal(a, b) for a, b in zip(first, run(tensors, weights=weights)))
    assert common.index_type(torch.empty(3, 2 ** 30, device='meta')) == common.tl.int64
    assert common.index_type(torch.empty(2, 2 ** 30, device='meta')) == common.tl.int32


@pytest.mark.slow
def test_the_trial_passes_and_names_what_fails(monkeypatch):
    from mmattn.ops.kernels import deformable as kernels
    device = torch.device(DEVICE)
    assert kernels.trial(device, torch.float16, 16) is None
    kernels.trial.cache_clear()
    right = kernels.deformable_attention
    monkeypatch.setattr(kernels, 'deformable_attention', lambda q, k, *rest: right(q, 1.1 * k, *rest))
    reason = kernels.trial(device, torch.float32, 16)
    assert reason.startswith('the Triton kernel errs by ')
    assert reason.endswith(f' in the output on {device}')
    kernels.trial.cache_clear()
    monkeypatch.setattr(kernels, 'deformable_attention', lambda *args: 1 / 0)
    assert kernels.trial(device, torch.float32, 16) == (f'the Triton kernel failed on {device}: ZeroDivisionError: '
                                                        'division by zero')
    kernels.trial.cache_clear()


def refusal(monkeypatch, *args, **options):
    with pytest.raises(ValueError, match=r"^backend='triton' cannot run: ") as error:
        deformable_attention(*args, 'dat', backend='triton', **options)
    return str(error.value).removeprefix("backend='triton' cannot run: ")


def test_refusals(monkeypatch):
    q, k, v, points, table = problem((2, 3), (2, 2))
    assert refusal(monkeypatch, q, k, v, points, None) == 'without a table there is no bias to avoid'
    assert refusal(monkeypatch, q, k, v, points, table, dropout=0.1) == 'only dense drops attention weights'
    assert refusal(monkeypatch, q.half(), k, v, points, table) == (
        'Triton kernels take float32, bfloat16 or float16, the same for all; got torch.float16, torch.float32, '
        'torch.float32')
    wide = problem((2, 3), (2, 2), dims=129)
    assert refusal(monkeypatch, *wide) == 'Triton kernels take up to 128 channels per head; here are 129'
    monkeypatch.setattr(fused, 'is_installed', lambda: False)
    assert refusal(monkeypatch, q, k, v, points, table) == 'Triton is not installed'
    monkeypatch.setattr(fused, 'is_interpreted', lambda: False)
    assert refusal(monkeypatch, q, k, v, points, table) == 'Triton kernels run on CUDA; q is on cpu'


@pytest.mark.slow
@pytest.mark.parametrize('dims', [16, 32, 64, 128])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_compiled_for_gpus_without_spills(dtype, dims):
    assert_fits(usage_of('deformable', 'tests.ops.test_deformable_kernel:launches', dtype=dtype, dims=dims))
