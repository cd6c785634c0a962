"""Mixed precision: inputs a thousand times larger than usual give finite outputs and gradients."""
import pytest
import torch

from mmattn import layers
from tests.models import BACKBONES, LAYERS, small_bi

VARIANTS = {
    **LAYERS,
    'BiLevelRoutingAttention, masked': lambda: layers.BiLevelRoutingAttention(24, 3, num_windows=3, topk=2,
                                                                              mask_padding=True),
    'DeformableAttention, log_cpb': lambda: layers.DeformableAttention(24, 3, offset_groups=3, position_bias='log_cpb'),
    'DeformableAttention, fixed': lambda: layers.DeformableAttention(24, 3, position_bias='fixed'),
    'ShortDistanceAttention, table': lambda: layers.ShortDistanceAttention(24, 3, group_size=3, position_bias='table'),
}
MODELS = {**BACKBONES, 'BiFormer': lambda: small_bi(norm_eval=True),
          'BiFormer, masked': lambda: small_bi(norm_eval=True, mask_padding=True)}
each_dtype = pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)


def check_finite(model, size, dtype):
    x = (1000 * torch.randn(1, *size)).requires_grad_()
    with torch.autocast('cpu', dtype):
        outs = model(x)
    outs = outs if isinstance(outs, tuple) else (outs,)
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().mean() for out in outs).backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@each_dtype
@pytest.mark.parametrize('make', VARIANTS.values(), ids=VARIANTS)
def test_large_inputs_of_layers(make, dtype):
    check_finite(make(), (24, 11, 14), dtype)


@each_dtype
@pytest.mark.parametrize('make', MODELS.values(), ids=MODELS)
def test_large_images(make, dtype):
    check_finite(make().train(), (3, 61, 45), dtype)
