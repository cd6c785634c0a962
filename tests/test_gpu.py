"""What only a GPU can show; make test-gpu."""
from importlib.util import find_spec

import pytest
import torch

from mmattn.measuring import gpu
from mmattn.ops.dispatch import OPS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='PyTorch finds no GPU')]
SETTINGS = gpu.Settings(size=(224, 352), iterations=1)


def layer_and_map(name):
    layer = gpu.LAYERS[name]
    size = [-(-side // layer.stride) for side in SETTINGS.size]
    return layer.module(None), torch.randn(2, layer.channels, *size)


@pytest.mark.parametrize('op', gpu.PROBLEMS)
def test_every_implementation_is_right(op):
    results = list(gpu.check(SETTINGS, op))
    wrong = [result for result in results if 'failed' in result or result.get('ok') is False]
    assert not wrong
    ran = {result['backend'] for result in results if 'output' in result}
    assert ran == {row for row in OPS[op].rows if row != 'reference'}, 'a row that never ran was not checked'
    assert all(result['same_bits'] for result in results if result['backend'] == 'triton' and 'output' in result)


@pytest.mark.parametrize('name', gpu.LAYERS)
def test_a_layer_gives_what_it_gives_on_a_cpu(name):
    layer, x = layer_and_map(name)
    on_cpu = layer(x)
    on_gpu = layer.cuda()(x.cuda()).cpu()
    # PyTorch's projections may be of TF32
    assert (on_gpu - on_cpu).norm() / on_cpu.norm() < 2e-3


@pytest.mark.parametrize('name', [name for name, layer in gpu.LAYERS.items() if layer.op == 'deformable_attention'])
@pytest.mark.parametrize('autocast', [False, True])
def test_sampled_points_are_those_of_a_cpu(name, autocast):
    layer, x = layer_and_map(name)
    points = layer.projections(x).points
    with torch.autocast('cuda', torch.bfloat16, enabled=autocast):
        again = layer.cuda().projections(x.cuda()).points.cpu()
    assert (again - points).abs().max() * max(x.shape[2:]) / 2 < 1e-3       # pixels


@pytest.mark.parametrize('name', gpu.LAYERS)
def test_nothing_waits_for_the_device(name):
    layer, x = layer_and_map(name)
    layer, x = layer.cuda(), x.cuda().requires_grad_()
    layer(x).sum().backward()       # kernels are compiled and tried
    torch.cuda.set_sync_debug_mode('error')
    try:
        layer(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('name', gpu.LAYERS)
@pytest.mark.usefixtures('deterministic')
def test_the_same_bits_twice(name):
    layer, x = layer_and_map(name)
    layer, x = layer.cuda(), x.cuda().requires_grad_()

    def gradients():
        return torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients()))


@pytest.mark.skipif(find_spec('mmengine') is None, reason='MMEngine is not installed')
@pytest.mark.parametrize('name', gpu.BACKBONES)
def test_backbones_train_in_every_precision(name):
    results = list(gpu.time_backbone(SETTINGS, name))
    assert not [result for result in results if 'step_ms' not in result]
