"""Under deterministic algorithms, what PyTorch cannot compute in a fixed order on CUDA is not computed: the operations
are the same on the CPU, where they are counted."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmattn import layers
from tests.models import BACKBONES, LAYERS

# Of those that `torch.use_deterministic_algorithms` says it would refuse there.
REFUSED = ('grid_sampler_2d_backward', 'upsample_linear1d_backward', 'upsample_bilinear2d_backward',
           'upsample_bicubic2d_backward', '_adaptive_avg_pool2d_backward', 'adaptive_max_pool2d_backward',
           'reflection_pad2d_backward', 'nll_loss_forward', 'nll_loss2d_forward', 'cumsum', 'histc', 'bincount',
           'median', 'put_', 'max_unpool2d')
CASES = {name: (make, set()) for name, make in {**LAYERS, **BACKBONES}.items()}
CASES |= {
    'BiFormer': (BACKBONES['BiFormer'], {'_adaptive_avg_pool2d_backward'}),         # kv_sampling='ada_avgpool'
    'fixed': (lambda: layers.DeformableAttention(24, 3, position_bias='fixed'),
              {'upsample_bilinear2d_backward'}),
    'log_cpb': (lambda: layers.DeformableAttention(24, 3, offset_groups=3, stride=4, position_bias='log_cpb'), set()),
}


class Operations(TorchDispatchMode):
    """The names of all operations, those of backward passes too."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().removeprefix('aten::').partition('.')[0])
        return func(*args, **kwargs or {})


def operations(model):
    channels = 24 if model.__module__.startswith('mmattn.layers') else 3
    x = torch.randn(2, channels, 37, 45, requires_grad=True)
    with Operations() as seen:
        outs = model(x)
        sum(out.square().mean() for out in (outs if isinstance(outs, tuple) else (outs,))).backward()
    assert seen.names & {'convolution_backward', 'mm', 'native_layer_norm_backward'}
    return seen.names & set(REFUSED)


@pytest.mark.usefixtures('deterministic')
@pytest.mark.parametrize(('make', 'left'), CASES.values(), ids=CASES)
def test_nothing_is_left_but_what_is_documented(make, left):
    assert operations(make().train()) == left


@pytest.mark.parametrize('name', ['DeformableAttention', 'DAT', 'DAT++', 'DeformableDETRAttention'])
def test_otherwise_points_are_sampled_in_no_fixed_order(name):
    assert 'grid_sampler_2d_backward' in operations(CASES[name][0]().train())
