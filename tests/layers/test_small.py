import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmattn.errors import ArgumentError
from mmattn.layers import MLP, DepthwiseMLP, DropPath, LayerNorm2d, LayerScale
from mmattn.layers import mlp as mlp_module
from mmattn.layers.precision import in_float32
from mmattn.layers.projection import split_linear
from tests.compare import assert_same


def test_layer_norm_normalises_channels_of_each_pixel():
    norm = LayerNorm2d(5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 7)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(norm(x), expected)


def test_mlp_works_on_each_pixel():
    mlp = MLP(6, mlp_ratio=2.5)
    assert mlp.fc1.out_features == 15
    x = torch.randn(2, 6, 3, 5)
    pixel = mlp.fc2(torch.nn.functional.gelu(mlp.fc1(x[1, :, 2, 3])))
    torch.testing.assert_close(mlp(x)[1, :, 2, 3], pixel)


@pytest.mark.parametrize('block', [1, 60, 2 ** 20])
@pytest.mark.parametrize('with_norm', [True, False])
def test_mlp_in_blocks_of_rows_has_the_gradients_of_the_formula(monkeypatch, block, with_norm):
    monkeypatch.setattr(mlp_module, 'BLOCK_HIDDEN', block)
    mlp, norm = MLP(6, mlp_ratio=2).double(), LayerNorm2d(6).double() if with_norm else None
    x = torch.randn(2, 6, 5, 3, dtype=torch.double, requires_grad=True)
    plain = (norm(x) if with_norm else x).permute(0, 2, 3, 1)
    plain = mlp.fc2(torch.nn.functional.gelu(mlp.fc1(plain))).permute(0, 3, 1, 2)
    assert_same(mlp(x, norm), plain, (x, *mlp.parameters(), *(norm.parameters() if with_norm else ())))


def test_mlp_keeps_no_hidden_channels_and_drops_the_same_ones_in_the_backward_pass():
    mlp = MLP(6, mlp_ratio=4, drop_rate=0.5)
    x = torch.randn(1, 6, 7, 5, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        torch.manual_seed(1)
        out = mlp(x)
    assert max(sizes) < 4 * x.numel()
    torch.manual_seed(1)
    hidden = mlp.drop(torch.nn.functional.gelu(mlp.fc1(x.permute(0, 2, 3, 1))))
    assert_same(out, mlp.drop(mlp.fc2(hidden)).permute(0, 3, 1, 2), (x, *mlp.parameters()))


def test_a_traced_mlp_serves_maps_of_any_height(monkeypatch):
    monkeypatch.setattr(mlp_module, 'BLOCK_HIDDEN', 60)
    mlp = MLP(6, mlp_ratio=2)
    traced, x = torch.jit.trace(mlp, torch.randn(1, 6, 7, 3)), torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(traced(x), mlp(x))


@pytest.mark.parametrize('residual', [True, False])
def test_depthwise_mlp_looks_at_neighbours_of_each_channel(residual):
    mlp = DepthwiseMLP(2, mlp_ratio=2, residual=residual)
    x = torch.randn(1, 2, 4, 5)
    hidden = mlp.fc1(x.permute(0, 2, 3, 1))[0]                          # (4, 5, 4)
    around = sum(hidden[1 + dy, 2 + dx] * mlp.conv.weight[:, 0, 1 + dy, 1 + dx]
                 for dy in (-1, 0, 1) for dx in (-1, 0, 1)) + mlp.conv.bias
    pixel = mlp.fc2(torch.nn.functional.gelu(around + hidden[1, 2] if residual else around))
    torch.testing.assert_close(mlp(x)[0, :, 1, 2], pixel)


def test_layer_scale_multiplies_channels():
    scale = LayerScale(3, 0.5)
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(scale(x), x / 2)
    with torch.no_grad():
        scale.gamma.copy_(torch.tensor([0., 1, 2]))
    assert torch.equal(scale(x)[:, 2], 2 * x[:, 2])


@pytest.mark.parametrize('bias', [True, False])
def test_split_linear_is_the_linear_map_in_parts(bias):
    linear, x = torch.nn.Linear(5, 12, bias=bias), torch.randn(2, 3, 5)
    for part, expected in zip(split_linear(linear, x, [2, 3, 7]), linear(x).split([2, 3, 7], -1), strict=True):
        torch.testing.assert_close(part, expected)


def test_in_float32_whatever_surrounds_it():
    linear, x = torch.nn.Linear(5, 3), torch.randn(2, 5)
    exact = linear(x)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(in_float32(linear, x), exact)
    low = torch.nn.Linear(5, 3).bfloat16()
    out = in_float32(low, x.bfloat16())
    torch.testing.assert_close(out, torch.nn.functional.linear(x.bfloat16().float(), low.weight.float(),
                                                               low.bias.float()))
    assert in_float32(linear.double(), x.double()).dtype == torch.float64


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_in_float32_on_a_device_without_autocast(dtype):
    out = in_float32(torch.nn.Linear(5, 3, device='meta', dtype=dtype), torch.empty(2, 5, device='meta', dtype=dtype))
    assert (out.shape, out.dtype, out.device.type) == ((2, 3), torch.float32, 'meta')


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 3))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    drop.eval()
    assert torch.equal(drop(out), out)


def test_drop_path_passes_over_the_map_once():
    drop, x = DropPath(0.25), torch.randn(5, 3, 4, 7)
    large = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            large.extend([func] * (out.shape == x.shape))
            return out

    with Count():
        drop(x)
    assert large == [torch.ops.aten.mul.Tensor]


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_drop_path_rate_is_checked(rate):
    with pytest.raises(ArgumentError, match=f'rate={rate} is outside'):
        DropPath(rate)
