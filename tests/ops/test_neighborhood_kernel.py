import pytest
import torch

from mmattn.ops import reference
from mmattn.ops.neighborhood import neighborhood_attention
from tests.ops.compiled import assert_fits, usage_of

kernels = pytest.importorskip('mmattn.ops.kernels.neighborhood', reason='Triton is not installed')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'       # there, the interpreter runs them
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _without_trial(request, monkeypatch):
    if 'trial' not in request.function.__name__:
        monkeypatch.setattr(kernels, 'trial', lambda *args: None)


def launches(dtype, dims, kernel_size=7):
    """What a training step of a layer of DAT++ launches, the heads of a pixel side by side in memory."""
    q, k, v = (torch.empty(2, 50, 80, 8, dims, dtype=getattr(torch, dtype), device='meta').permute(0, 3, 1, 2, 4)
               .requires_grad_() for _ in range(3))
    table = torch.empty(8, 2 * kernel_size - 1, 2 * kernel_size - 1, device='meta', requires_grad=True)
    out = kernels.neighborhood_attention(q, k, v, table, kernel_size)
    torch.autograd.grad(out, (q, k, v, table), torch.empty_like(out))


def problem(size, kernel, dims=16, batch=1, heads=1, dtype=torch.float32):
    tensors = [torch.randn(batch, heads, *size, dims).to(dtype) for _ in range(3)]
    tensors.append(torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1))
    return [t.to(DEVICE) for t in tensors]


def run(tensors, kernel, weights, backend='triton'):
    """The output and all gradients."""
    inputs = [t.detach().requires_grad_() for t in tensors]
    out = neighborhood_attention(*inputs, kernel, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, inputs, weights.to(out))]


def assert_right(size, kernel, **options):
    """The kernels give what the plain formula gives in float64."""
    tensors = problem(size, kernel, **options)
    weights = torch.randn_like(tensors[0])
    inputs = [t.double().requires_grad_() for t in tensors]
    wanted = reference.neighborhood_attention(*inputs, kernel)
    wanted = [wanted.detach(), *torch.autograd.grad(wanted, inputs, weights.double())]
    for name, result, right in zip(('output', 'q', 'k', 'v', 'table'), run(tensors, kernel, weights), wanted):
        error = (result.double() - right).norm()
        assert error < TOLERANCES[tensors[0].dtype] * right.norm() + 1e-6, (name, error, right.norm())


# one pixel, sides below the window, of it and above; several tiles
@pytest.mark.parametrize(('size', 'kernel'), [((1, 1), 3), ((2, 9), 5), ((5, 5), 5), ((7, 3), 3), ((5, 19), 7)])
def test_values_and_gradients(size, kernel):
    assert_right(size, kernel)


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'kernel'), [((20, 35), 7), ((9, 18), 13), ((19, 5), 9), ((6, 40), 3), ((3, 34), 23)])
def test_many_tiles_and_wide_windows(size, kernel):
    assert_right(size, kernel)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    assert_right((6, 9), 5, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize('dims', [1, 8, 24, 48])
def test_any_channels_of_a_head(dims):
    assert_right((4, 5), 3, dims=dims)


@pytest.mark.slow
@pytest.mark.parametrize('dims', [32, 64, 96, 128])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_many_channels_of_a_head(dims, dtype):
    assert_right((6, 9), 5, dims=dims, dtype=dtype)


@pytest.mark.slow
def test_images_and_heads():
    assert_right((4, 6), 3, batch=2, heads=3)


@pytest.mark.slow
@pytest.mark.parametrize('arrange', [
    lambda t: t.movedim(-1, 1).contiguous().movedim(1, -1), lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    lambda t: torch.stack([t, t], -1)[..., 0], lambda t: torch.cat([t, t], 3)[:, :, :, :t.shape[3]]])
def test_any_strides(arrange):
    tensors = problem((4, 6), 3, heads=2)
    weights = torch.randn_like(tensors[0])
    arranged = [*map(arrange, tensors[:3]), tensors[3].mT.contiguous().mT]
    for a, b in zip(run(arranged, 3, arrange(weights)), run(tensors, 3, weights)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_every_number_is_written_and_the_same_twice_to_the_bit(monkeypatch):
    tensors = problem((5, 19), 5)
    weights = torch.randn_like(tensors[0])
    first = run(tensors, 5, weights)
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(kernels.torch, 'empty', lambda *size, **options: empty(*size, **options).fill_(torch.nan))
    monkeypatch.setattr(kernels.torch, 'empty_like', lambda t: empty_like(t).fill_(torch.nan))
    assert all(torch.equal(a, b) for a, b in zip(first, run(tensors, 5, weights)))


@pytest.mark.slow
def test_maps_too_large_for_32_bits_count_in_64(monkeypatch):
    import triton.language as tl
    tensors = problem((4, 5), 3)
    weights = torch.randn_like(tensors[0])
    first = run(tensors, 3, weights)
    monkeypatch.setattr(kernels, 'index_type', lambda *tensors: tl.int64)
    assert all(torch.equal(a, b) for a, b in zip(first, run(tensors, 3, weights)))


@pytest.mark.slow
def test_the_trial_passes_and_names_what_fails(monkeypatch):
    device = torch.device(DEVICE)
    kernels.trial.cache_clear()
    assert kernels.trial(device, torch.float16, 16, 5) is None
    right = kernels.neighborhood_attention
    monkeypatch.setattr(kernels, 'neighborhood_attention', lambda q, k, v, table, kernel_size: right(
        q, 1.1 * k, v, table, kernel_size))
    reason = kernels.trial(device, torch.float32, 16, 5)
    assert reason.startswith('the Triton kernel errs by ')
    assert reason.endswith(f' in the output on {device}')
    kernels.trial.cache_clear()


def test_refusals():
    tensors = problem((2, 3), 3)
    for options, reason in ((dict(dropout=0.1), 'only tiles drops attention weights'),
                            (dict(kernel_size=103), r'the Triton kernel takes windows of up to 101 pixels a side; got '
                                                    r'103')):
        with pytest.raises(ValueError, match=rf"^backend='triton' cannot run: {reason}$"):
            neighborhood_attention(*tensors, backend='triton', **{'kernel_size': 3, **options})
    wide = problem((2, 3), 3, dims=129)
    with pytest.raises(ValueError, match=r'cannot run: Triton kernels take up to 128 channels per head; here are 129$'):
        neighborhood_attention(*wide, 3, backend='triton')


@pytest.mark.slow
@pytest.mark.parametrize('dims', [16, 32, 64, 128])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_compiled_for_gpus_without_spills(dtype, dims):
    assert_fits(usage_of('neighborhood', 'tests.ops.test_neighborhood_kernel:launches', dtype=dtype, dims=dims))
