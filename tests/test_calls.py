"""What a GPU would be asked to do, see `tests.calls`."""
import pytest
import torch
from torch import nn

from mmattn.backbones import DAT, BiFormer, CrossFormer, DATPlusPlus
from mmattn.measuring.gpu import LAYERS
from tests import models
from tests.calls import counted, step

pytest.importorskip('triton', reason='Triton is not installed')

# kernel calls of a training step of a layer on an image of 800 x 1280, with and without Triton
BOUNDS = {'deformable_attention': (70, 175), 'routed_attention': (45, 110), 'neighborhood_attention': (45, 140),
          'grouped_attention': (75, 75)}
STEPS = {'DAT-T': (lambda: DAT('tiny'), 1500, 2000), 'DAT++-T': (lambda: DATPlusPlus('tiny'), 4000, 5000),
         'BiFormer-S': (lambda: BiFormer('small', num_windows=16), 3500, 5000),
         'CrossFormer-S': (lambda: CrossFormer('small'), 2200, 2200)}


@pytest.mark.parametrize('triton', [True, False])
@pytest.mark.parametrize('name', models.LAYERS)
def test_no_layer_waits_for_the_device(name, triton):
    for bfloat16 in (False, True):
        calls = step(models.LAYERS[name](), torch.empty(2, 24, 25, 38), triton=triton, bfloat16=bfloat16)
        assert calls.total
        assert not +calls.waits


@pytest.mark.parametrize('triton', [True, False])
@pytest.mark.parametrize('name', LAYERS)
def test_layers_make_few_calls(name, triton):
    layer = LAYERS[name]
    calls = step(layer.module(None), torch.empty(2, layer.channels, 800 // layer.stride, 1280 // layer.stride),
                 triton=triton)
    assert calls.total <= BOUNDS[layer.op][not triton], calls.kernels
    assert ('attention' in calls.kernels) == (layer.op == 'grouped_attention' or not triton)


@pytest.mark.slow
@pytest.mark.parametrize('name', STEPS)
def test_steps_of_backbones_make_few_calls(name):
    build, *bounds = STEPS[name]
    for triton, bound in zip((True, False), bounds):
        calls = step(build(), torch.empty(2, 3, 800, 1280, device='meta'), triton=triton, bfloat16=True)
        assert calls.total <= bound, calls.kernels
        assert not +calls.waits


class Waits(nn.Module):
    def __init__(self, wait):
        super().__init__()
        self.wait = wait

    def forward(self, x):
        return x * 2 + self.wait(x)


@pytest.mark.parametrize('wait', [
    lambda x: torch.tensor([1.0, 2.0], device=x.device).sum(), lambda x: x.new_tensor([1.0]),
    lambda x: x[:, [0, 1]].sum(), lambda x: torch.arange(3.0).to(x.device).sum()])
def test_what_comes_from_the_host_is_counted(wait):
    assert sum(step(Waits(wait), torch.empty(2, 3)).waits.values()) == 1


@pytest.mark.parametrize('wait', [lambda x: x.sum().item(), lambda x: float(x.sum()), lambda x: x[x > 0].sum(),
                                  lambda x: len(x.nonzero()), lambda x: x.tolist()[0][0]])
def test_looking_at_a_number_is_an_error(wait):
    with pytest.raises((RuntimeError, NotImplementedError)):
        step(Waits(wait), torch.empty(2, 3))


def test_calls_bytes_and_autocast_by_hand():
    linear = nn.Linear(8, 16)
    assert step(linear, torch.empty(4, 8)).kernels == {'addmm': 1, 'mm': 2, 'sum': 1}
    cast = step(nn.Linear(8, 16), torch.empty(4, 8), bfloat16=True).kernels
    # weight, bias and input to bfloat16, and their gradients back
    assert cast == {'_to_copy': 6, 'addmm': 1, 'mm': 2, 'sum': 1}
    with counted() as calls:
        a = torch.empty(1024, device='meta')
        b = a + 1
        del a
        c = b + 1
    assert calls.peak == 2 * 4096
    assert c.numel() == 1024
