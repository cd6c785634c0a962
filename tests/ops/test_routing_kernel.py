from functools import partial

import pytest
import torch

from mmattn.ops import fused, reference
from mmattn.ops.routing import IMPLEMENTATIONS, routed_attention
from tests.compare import largest_tensor
from tests.ops.compiled import assert_fits, recorded, usage_of

kernels = pytest.importorskip('mmattn.ops.kernels.routing', reason='Triton is not installed')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'       # there, the interpreter runs them
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
Blocks = kernels.Blocks


def problem(grid=(1, 2), query=(3, 5), key=(3, 2), dims=8, dims_v=16, routes=2, batch=1, dtype=torch.float32,
            weighted=False, masked=False):
    """Named tensors. Routes may lead to a region twice, or never; every region has a real key."""
    height, width = grid
    sizes = dict(q=(query, dims), k=(key, dims), v=(key, dims_v))
    tensors = {name: torch.randn(batch, height * y, width * x, 2 * c).to(dtype)
               for name, ((y, x), c) in sizes.items()}
    tensors['routes'] = torch.randint(height * width, (batch, height, width, routes))
    if weighted:
        tensors['route_weights'] = torch.rand(batch, height, width, routes) + 0.5
    if masked:
        mask = torch.rand(batch, height * key[0], width * key[1]) > 0.4
        mask[:, ::key[0], ::key[1]] = True
        tensors['key_mask'] = mask
    return {name: t.to(DEVICE) for name, t in tensors.items()}


def results(attend, tensors, weights=None, scale=0.3):
    """The output and all gradients, by name."""
    leaves = {name: t.detach().requires_grad_() if t.is_floating_point() else t for name, t in tensors.items()}
    out = attend(**leaves, num_heads=2, scale=scale)
    if weights is None:
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.double, device=DEVICE).view_as(out)
    learnt = [name for name, t in leaves.items() if t.requires_grad]
    grads = torch.autograd.grad(out, [leaves[name] for name in learnt], weights.to(out.dtype))
    return dict(zip(['output', *learnt], [out.detach(), *grads]))


def assert_right(tensors, blocks=None, scale=0.3):
    """The kernels give what the plain formula gives in float64."""
    got = results(partial(kernels.routed_attention, blocks=blocks), tensors, scale=scale)
    wanted = results(reference.routed_attention,
                     {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}, scale=scale)
    for name, right in wanted.items():
        error = (got[name].double() - right).norm() / (right.norm() + 0.1)      # it is 0 where there is one key
        assert error < TOLERANCES[tensors['q'].dtype], (name, error)


def assert_same_to_the_bit(a, b):
    for name in b:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize(('grid', 'query', 'key', 'routes'), [
    ((1, 1), (1, 1), (2, 1), 1), ((1, 3), (4, 1), (1, 7), 3), ((2, 2), (3, 6), (3, 2), 2), ((2, 1), (1, 3), (5, 7), 1)])
def test_values_and_gradients(grid, query, key, routes, masked, weighted):
    assert_right(problem(grid, query, key, routes=routes, masked=masked, weighted=weighted))


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision(dtype, weighted):
    assert_right(problem(dtype=dtype, masked=True, weighted=weighted))


@pytest.mark.slow
@pytest.mark.parametrize('dims', [(1, 3), (24, 24), (32, 8), (16, 48)])
def test_any_channels_of_a_head(dims):
    assert_right(problem((1, 2), (1, 3), (2, 2), *dims, masked=True, weighted=True))


@pytest.mark.slow
@pytest.mark.parametrize('dims', [64, 96, 128])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_many_channels_of_a_head(dtype, dims):
    tensors = problem((1, 2), (9, 5), (5, 8), dims, dims, dtype=dtype, masked=True, weighted=True)
    assert_right(tensors, scale=dims ** -0.5)


@pytest.mark.slow
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize(('tokens', 'places'), [(16, 32), (32, 64), (64, 16)])
@pytest.mark.parametrize(('query', 'key'), [((5, 4), (3, 7)), ((4, 4), (2, 8))])
def test_any_blocks(query, key, tokens, places, packed):
    assert_right(problem((1, 2), query, key, masked=True), [Blocks(tokens, places, 4, packed)] * 2)


def test_images_have_routes_of_their_own_and_may_share_a_mask():
    tensors = problem((2, 1), (2, 2), (1, 3), batch=2, masked=True, weighted=True)
    assert not tensors['routes'][0].equal(tensors['routes'][1])
    assert_right(tensors)
    tensors['key_mask'] = tensors['key_mask'][:1]
    assert_right(tensors)


def test_a_region_chosen_twice_counts_twice_and_one_never_chosen_has_no_gradient():
    tensors = problem((1, 3), (1, 2), (3, 2))
    tensors['routes'] = torch.tensor([[[[2, 2], [0, 2], [0, 0]]]], device=DEVICE)
    assert_right(tensors)
    got = results(kernels.routed_attention, tensors)
    assert not got['k'][:, :, 2:4].any()
    assert not got['v'][:, :, 2:4].any()


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:(overflow|invalid value) encountered:RuntimeWarning')      # of the interpreter
def test_large_logits_and_masked_keys_that_would_overflow():
    tensors = problem((1, 2), masked=True)
    assert_right(tensors, scale=30.0)
    tensors['k'][~tensors['key_mask']] *= 1e4
    assert_right(tensors)


def channels_first(t):
    return t.movedim(-1, 1).contiguous().movedim(1, -1)


@pytest.mark.slow
@pytest.mark.parametrize('arrange', [
    channels_first, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2), lambda t: torch.stack([t, t], -1)[..., 0],
    lambda t: torch.cat([t, t], 2)[:, :, :t.shape[2]]])
def test_any_strides(arrange):
    tensors = problem((2, 1), masked=True, weighted=True)
    weights = torch.randn(*tensors['q'].shape[:3], tensors['v'].shape[3], device=DEVICE)
    right = results(kernels.routed_attention, tensors, weights)
    arranged = {name: arrange(t) for name, t in tensors.items()}
    assert not arranged['q'].is_contiguous()
    assert_same_to_the_bit(results(kernels.routed_attention, arranged, arrange(weights)), right)


def test_a_gradient_without_strides():
    tensors = problem((1, 2))
    one = torch.ones((), device=DEVICE)
    shape = *tensors['q'].shape[:3], tensors['v'].shape[3]
    assert_same_to_the_bit(results(kernels.routed_attention, tensors, one.expand(shape)),
                           results(kernels.routed_attention, tensors, torch.ones(shape, device=DEVICE)))


@pytest.mark.slow
def test_rows_of_pixels_that_lie_further_apart_than_32_bits_count():
    tensors = problem((2, 1), (1, 2), (1, 2), dtype=torch.float16)
    right = results(kernels.routed_attention, tensors)
    memory = torch.empty(2 ** 31 + 2 ** 10, dtype=torch.float16, device=DEVICE)     # hardly any of it is touched
    for name in ('q', 'k', 'v'):
        t = tensors[name]
        far = memory.as_strided(t.shape, (1, 2 ** 31, t.shape[3], 1))
        got = results(kernels.routed_attention, {**tensors, name: far.copy_(t)})
        assert_same_to_the_bit(got, right)


def test_every_number_is_written_and_the_same_twice_to_the_bit(deterministic):
    """PyTorch fills new memory with NaN where it has to be deterministic."""
    tensors = problem(query=(3, 6), dims=24, routes=1, masked=True, weighted=True)
    tensors['routes'].fill_(1)
    assert torch.empty(3).isnan().all()
    first = results(kernels.routed_attention, tensors)
    assert all(t.isfinite().all() for t in first.values())
    torch.use_deterministic_algorithms(False)
    assert_same_to_the_bit(results(kernels.routed_attention, tensors), first)


def test_no_images():
    tensors = {name: t[:0] for name, t in problem(weighted=True).items()}
    got = results(kernels.routed_attention, tensors)
    assert [t.shape for t in got.values()] == [(0, 3, 10, 32), *(tensors[name].shape for name in (
        'q', 'k', 'v', 'route_weights'))]


def launches(dtype, dims, region, weighted=False, masked=False, grid=(7, 7), routes=4):
    """What a training step of a layer of BiFormer launches; queries, keys and values are parts of one map."""
    size = [2, grid[0] * region[0], grid[1] * region[1]]
    qkv = torch.empty(*size, 3 * 4 * dims, dtype=getattr(torch, dtype), device='meta').chunk(3, -1)
    leaves = [t.requires_grad_() for t in qkv]
    if weighted:
        leaves.append(torch.empty(2, *grid, routes, device='meta', requires_grad=True))
    mask = torch.empty(1, *size[1:], dtype=torch.bool, device='meta') if masked else None
    chosen = torch.empty(2, *grid, routes, dtype=torch.int64, device='meta')
    out = kernels.routed_attention(*leaves[:3], chosen, 4, 0.2, leaves[3] if weighted else None, mask)
    torch.autograd.grad(out, leaves, torch.empty_like(out))


def test_three_kernels_a_step_wait_for_no_number_and_gather_nothing():
    """A tensor of the device 'meta' has no numbers to wait for."""
    with largest_tensor() as largest:
        seen = recorded(kernels, lambda: launches('float16', 32, (8, 10), weighted=True, masked=True))
    assert [kernel.__name__ for kernel, *_ in seen] == ['_forward', '_backward_queries', '_backward_keys']
    assert largest.numel == 2 * 56 * 70 * 3 * 4 * 32        # the map of queries, keys and values


def test_routes_are_inverted():
    routes = torch.tensor([[[[2, 0], [2, 2], [0, 2]]], [[[1, 0], [2, 1], [0, 2]]]])
    maps = [torch.zeros(2, 1, 3, 2)] * 3
    order, starts = kernels._Problem(*maps, None, None, routes, 1, 1.0).inverse()
    assert order.tolist() == [[1, 4, 0, 2, 3, 5], [1, 4, 0, 3, 2, 5]]
    assert starts.tolist() == [[0, 2, 2, 6], [0, 2, 4, 6]]


def test_blocks_fit_the_regions():
    def of(*args):
        return tuple(Blocks.of(*args))
    assert of(torch.float16, 32, 1058, 1058, 4, False) == (64, 64, 4, False)
    assert of(torch.float16, 32, 20, 20, 4, False) == (32, 64, 2, True)
    assert of(torch.float16, 32, 20, 20, 4, True) == (32, 32, 2, False)
    assert of(torch.float16, 16, 4, 4, 2, False) == (16, 16, 2, True)
    assert of(torch.float32, 128, 1058, 49, 1, False) == (16, 32, 8, False)


@pytest.mark.slow
def test_the_row_runs_on_request_and_after_its_trial(monkeypatch):
    monkeypatch.setattr(kernels, 'trial', lambda *args: None)
    tensors = problem(masked=True, weighted=True)
    assert_same_to_the_bit(results(partial(routed_attention, backend='triton'), tensors),
                           results(kernels.routed_attention, tensors))
    if DEVICE == 'cpu':
        args = tensors['q'], tensors['k'], tensors['v'], tensors['routes'], 2, 0.3, None, None
        assert IMPLEMENTATIONS.explain(None, *args)['triton'] == 'the interpreter is for tests'
    monkeypatch.setattr(kernels, 'trial', lambda *args: f'it errs for {args}')
    assert refusal(tensors) == (
        f"it errs for (device(type='{DEVICE}'), torch.float32, 8, 16, True, True, "
        "(Blocks(tokens=16, places=16, warps=2, packed=False), Blocks(tokens=16, places=16, warps=2, packed=False)))")


@pytest.mark.slow
def test_the_trial_passes_and_names_what_fails(monkeypatch):
    device = torch.device(DEVICE)
    trial = kernels.trial.__wrapped__       # without its memory
    blocks = Blocks(64, 64, 4), Blocks(64, 64, 4)
    assert trial(device, torch.float16, 32, 32, False, False, blocks) is None
    right = kernels.routed_attention
    monkeypatch.setattr(kernels, 'routed_attention', lambda q, k, **rest: right(q=q, k=1.1 * k, **rest))
    reason = trial(device, torch.float32, 16, 16, True, True, blocks)
    assert reason.startswith('the Triton kernel errs by ')
    assert reason.endswith(f' in the output on {device}')


def refusal(tensors):
    with pytest.raises(ValueError, match=r"^backend='triton' cannot run: ") as error:
        routed_attention(**tensors, num_heads=2, scale=0.3, backend='triton')
    return str(error.value).removeprefix("backend='triton' cannot run: ")


def test_refusals(monkeypatch):
    tensors = problem()
    assert refusal({**tensors, 'q': tensors['q'].half()}) == (
        'Triton kernels take float32, bfloat16 or float16, the same for all; got torch.float16, torch.float32, '
        'torch.float32')
    assert refusal(problem(dims_v=129)) == 'Triton kernels take up to 128 channels per head; here are 129'
    small = problem((1, 1), (1, 1), (1, 1), routes=1)
    assert refusal({name: t.expand(2 ** 16, -1, -1, -1) for name, t in small.items()}) == (
        'the Triton kernel takes up to 65535 images and regions; got 65536 and 1')
    monkeypatch.setattr(fused, 'is_installed', lambda: False)
    assert refusal(tensors) == 'Triton is not installed'


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, dict(weighted=True, masked=True), dict(region=(5, 4))])
@pytest.mark.parametrize('dims', [16, 32, 64, 128])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_compiled_for_gpus_without_spills(dtype, dims, options):
    usages = usage_of('routing', 'tests.ops.test_routing_kernel:launches', dtype=dtype, dims=dims,
                      **{'region': (23, 46), **options})
    assert_fits(usages)
