"""torch.compile without graph breaks, torch.export, ONNX and torch.jit.trace: layers and backbones at a fixed size give
what they give in eager mode."""
import io

import pytest
import torch

from mmattn import layers
from mmattn.necks import AttentionNeck, CrossScaleNeck
from mmattn.ops.deformable import IMPLEMENTATIONS
from tests.compare import assert_same
from tests.models import BACKBONES, LAYERS

FAST = 'BiLevelRoutingAttention', 'DeformableAttention', 'LongDistanceAttention', 'NeighborhoodAttention'
each_layer = pytest.mark.parametrize('make', [
    pytest.param(make, id=name, marks=[] if name in FAST else pytest.mark.slow) for name, make in LAYERS.items()])
each_backbone = pytest.mark.parametrize('make', BACKBONES.values(), ids=BACKBONES)
pytestmark = pytest.mark.filterwarnings('ignore')       # of the compilers


def onnx_outputs(model, *inputs, folder):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    path = folder / 'model.onnx'
    with torch.no_grad():
        torch.onnx.export(model, inputs, dynamo=True, verbose=False).save(path)
    session = runtime.InferenceSession(path)
    return session.run(None, {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs)})


def traced(model, x):
    """What torch.jit.trace records of a model, saved and loaded again."""
    file = io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(model, x, check_trace=False), file)
    file.seek(0)
    return torch.jit.load(file)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend='aot_eager')


@each_layer
def test_a_layer_compiles_without_graph_breaks(make):
    layer, x = make(), torch.randn(2, 24, 11, 14, requires_grad=True)
    assert_same(compiled(layer)(x), layer(x), [x, *layer.parameters()], rtol=1e-4, atol=1e-5)


@each_layer
def test_a_layer_is_exported(make):
    layer, x = make().eval(), torch.randn(1, 24, 11, 14)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x), rtol=1e-4, atol=1e-5)


@each_layer
def test_a_layer_in_onnx_gives_the_same(make, tmp_path):
    layer, x = make().eval(), torch.randn(1, 24, 11, 14)
    out, = onnx_outputs(layer, x, folder=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(out), layer(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize('make', LAYERS.values(), ids=LAYERS)
def test_a_traced_layer_is_saved_and_gives_the_same_on_another_map(make):
    layer = make().eval()
    loaded, x = traced(layer, torch.randn(1, 24, 11, 14)), torch.randn(1, 24, 11, 14)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), layer(x), rtol=0, atol=1e-5)


def test_a_map_too_large_for_one_product_in_eager_mode_is_traced_all_the_same():
    layer, x = layers.DeformableAttention(8, 1).eval(), torch.randn(1, 8, 20, 20)
    q, points = torch.empty(1, 1, 20, 20, 8), torch.empty(1, 1, 20, 20, 2)
    assert IMPLEMENTATIONS.choose(None, q, q, q, points, layer.rpe_table, 'dat', 0.0) == 'separable'
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled(layer)(x), layer(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(traced(layer, x)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@each_backbone
def test_a_backbone_compiles_without_graph_breaks(make):
    model, x = make().eval(), torch.randn(1, 3, 61, 90, requires_grad=True)
    outs, plain = (torch.cat([out.flatten() for out in run(x)]) for run in (compiled(model), model))
    assert_same(outs, plain, [x], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@each_backbone
def test_a_backbone_in_onnx_gives_the_same(make, tmp_path):
    model, x = make().eval(), torch.randn(1, 3, 61, 90)
    outs = onnx_outputs(model, x, folder=tmp_path)
    with torch.no_grad():
        for out, wanted in zip(outs, model(x), strict=True):
            torch.testing.assert_close(torch.from_numpy(out), wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
@each_backbone
def test_a_traced_backbone_is_saved_and_gives_the_same_on_another_image(make):
    model = make().eval()
    loaded, x = traced(model, torch.randn(1, 3, 61, 90)), torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        for out, wanted in zip(loaded(x), model(x), strict=True):
            torch.testing.assert_close(out, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@each_backbone
def test_the_complexity_of_mmengine_counts_a_backbone(make):
    analysis = pytest.importorskip('mmengine.analysis')
    model = make().eval()
    info = analysis.get_model_complexity_info(model, (3, 61, 90), show_table=False, show_arch=False)
    assert info['params'] == sum(p.numel() for p in model.parameters())
    assert info['flops'] > 1e6


@pytest.mark.parametrize('neck', [
    lambda: AttentionNeck([8, 8], dict(type='LocalAttention', num_heads=2), levels=[1]),
    pytest.param(lambda: CrossScaleNeck([8, 8], 8, num_heads=2, group_size=3, num_outs=3), marks=pytest.mark.slow)],
    ids=['AttentionNeck', 'CrossScaleNeck'])
def test_a_neck_compiles(neck):
    neck, maps = neck().eval(), [torch.randn(1, 8, 12, 16), torch.randn(1, 8, 6, 8)]
    with torch.no_grad():
        for out, wanted in zip(compiled(neck)(maps), neck(maps), strict=True):
            torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
