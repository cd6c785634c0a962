"""What holds for every layer: how it prints, the meta device, traces."""
import io
import re

import pytest
import torch

from mmattn import layers
from tests.models import LAYERS

EACH_LAYER = pytest.mark.parametrize('make', LAYERS.values(), ids=LAYERS)


def first_line(layer):
    return re.match(r'\w+\((?:\n  )?([^\n]*?)\)?(?:\n|$)', repr(layer))[1]


@pytest.mark.parametrize(('layer', 'line'), [
    (lambda: layers.Attention(8, 2), 'embed_dims=8, num_heads=2'),
    (lambda: layers.Attention(8, 2, lepe_kernel_size=3, lepe_of='input'), "embed_dims=8, num_heads=2, lepe_of='input'"),
    (lambda: layers.AttentionBlock(8, dict(type='Attention')), 'in_channels=8'),
    (lambda: layers.BiLevelRoutingAttention(8, 2, kv_sampling='avgpool', kv_size=2),
     "embed_dims=8, num_heads=2, num_windows=7, topk=4, qk_dims=8, scale=0.353553, kv_sampling='avgpool', kv_size=2, "
     'backend=None'),
    (lambda: layers.BiLevelRoutingAttention(8, 2, pad='after', mask_padding=True, backend='gathered'),
     "embed_dims=8, num_heads=2, num_windows=7, topk=4, qk_dims=8, scale=0.353553, pad='after', mask_padding=True, "
     "backend='gathered'"),
    (lambda: layers.ConditionalPositionEncoding(8, rows=3), 'embed_dims=8, rows=3'),
    (lambda: layers.CrossScaleEmbedding(3, 8, kernel_sizes=[2, 4], stride=2),
     'in_channels=3, out_channels=8, kernel_sizes=(2, 4), stride=2'),
    (lambda: layers.DeformableAttention(8, 4, offset_groups=2, offsets=False, position_bias='none'),
     "embed_dims=8, num_heads=4, offset_groups=2, position_bias='none', offsets=False, backend=None"),
    (lambda: layers.DeformableAttention(8, 4, table_size=(3, 5), backend='dense', attn_drop_rate=0.1),
     "embed_dims=8, num_heads=4, offset_groups=1, position_bias='table', table_size=(3, 5), attn_drop_rate=0.1, "
     "backend='dense'"),
    (lambda: layers.DeformableDETRAttention(8, 2, map_size=5), 'embed_dims=8, num_heads=2, num_points=4, map_size=5'),
    (lambda: layers.DepthwiseMLP(8, residual=False), 'embed_dims=8, mlp_ratio=4, residual=False'),
    (lambda: layers.DropPath(0.1), 'rate=0.1'),
    (lambda: layers.DynamicPositionBias(5, 3), 'embed_dims=5, num_heads=3'),
    (lambda: layers.LayerScale(8), 'embed_dims=8'),
    (lambda: layers.LocalAttention(8, 2, window_size=5), 'embed_dims=8, num_heads=2, window_size=5'),
    (lambda: layers.LongDistanceAttention(8, 2, group_size=5, interval=3, adaptive_interval=True, far_groups='block'),
     "embed_dims=8, num_heads=2, group_size=5, interval=3, far_groups='block', backend=None, adaptive_interval=True"),
    (lambda: layers.NeighborhoodAttention(8, 2, pad_small=False),
     'embed_dims=8, num_heads=2, kernel_size=7, pad_small=False, backend=None'),
    (lambda: layers.ShiftedWindowAttention(8, 2), 'embed_dims=8, num_heads=2, window_size=7, shift_size=4'),
    (lambda: layers.ShortDistanceAttention(8, 2, backend='views'),
     "embed_dims=8, num_heads=2, group_size=7, far_groups='map', backend='views'"),
    (lambda: layers.SpatialReductionAttention(8, 2, attn_drop_rate=0.25),
     'embed_dims=8, num_heads=2, sr_ratio=1, attn_drop_rate=0.25'),
])
def test_a_printed_layer_shows_its_arguments(layer, line):
    assert first_line(layer()) == line


@EACH_LAYER
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_shapes_on_the_meta_device(make, dtype):
    """As for counting operations, or planning memory, without any."""
    with torch.device('meta'):
        layer, x = make().to(dtype), torch.empty(2, 24, 11, 14, dtype=dtype, requires_grad=True)
    out = layer(x)
    assert out.device.type == 'meta'
    assert out.shape[:2] == x.shape[:2]
    out.sum().backward()
    assert all(p.grad is not None for p in (x, *layer.parameters()))


@EACH_LAYER
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_traced_layer_is_saved_and_gives_the_same(make):
    layer, x = make().eval(), torch.randn(2, 24, 11, 14)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(layer, torch.randn_like(x)), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), layer(x))
