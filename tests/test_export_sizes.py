"""torch.export and ONNX with a free height and width: the graph of one map gives what eager mode gives for others."""
import pytest
import torch

from mmattn.backbones import AttentionPyramid
from mmattn.layers import BiLevelRoutingAttention, ConditionalPositionEncoding, DeformableAttention
from mmattn.necks import AttentionNeck, CrossScaleNeck
from mmattn.ops import reference
from mmattn.ops.neighborhood import _strips
from tests.models import BACKBONES, LAYERS, SMALL_BI, SMALL_CROSS, SMALL_PP, small_bi, small_cross, small_pp

FAST = 'BiLevelRoutingAttention', 'CrossScaleEmbedding', 'LocalAttention'
SIZES = (11, 14), (9, 9), (10, 15), (35, 28), (9, 40)       # the first is recorded
# more than one window, tile, or agent
LEAST = {'AttentionBlock': 8, 'DeformableBiLevelRoutingAttention': 9, 'NeighborhoodAttention': 9}
pytestmark = pytest.mark.filterwarnings('ignore')       # of the exporter


def free(least, times=1):
    """A height and a width from `least` on, `times` those of the same names."""
    return {i: times * torch.export.Dim(name, min=least, max=1024) for i, name in ((2, 'height'), (3, 'width'))}


def recorded(model, x, sizes):
    # As torch.onnx.export sets it: what asks whether a size is 1 or a stride the size gets no for an answer.
    with torch.no_grad(), torch.fx.experimental._config.patch(backed_size_oblivious=True):
        return torch.export.export(model, (x,), dynamic_shapes=(sizes,), strict=False)


def onnx_session(program, folder):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    torch.onnx.export(program, dynamo=True, verbose=False).save(folder / 'model.onnx')
    session = runtime.InferenceSession(folder / 'model.onnx')
    return lambda x: session.run(None, {session.get_inputs()[0].name: x.numpy()})


def assert_alike(run, model, x, **tolerance):
    with torch.no_grad():
        outs, wanted = ([maps] if torch.is_tensor(maps) else maps for maps in (run(x), model(x)))
    for out, want in zip(outs, wanted, strict=True):
        torch.testing.assert_close(torch.as_tensor(out), want, **tolerance)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in LAYERS])
def test_a_layer_is_recorded_once_for_all_sizes(name):
    layer = LAYERS[name]().eval()
    run = recorded(layer, torch.randn(1, 24, *SIZES[0]), free(LEAST.get(name, 6))).module()
    for size in SIZES:
        assert_alike(run, layer, torch.randn(1, 24, *size), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', LAYERS)
def test_a_layer_in_onnx_takes_all_sizes(name, tmp_path):
    layer = LAYERS[name]().eval()
    run = onnx_session(recorded(layer, torch.randn(1, 24, *SIZES[0]), free(LEAST.get(name, 6))), tmp_path)
    for size in SIZES:
        assert_alike(run, layer, torch.randn(1, 24, *size), rtol=0, atol=1e-4)


def biformer():
    """Without regions that are pooled, which ONNX has not."""
    routing = dict(soft_routing=True, mask_padding=True)
    return small_bi(arch=[*SMALL_BI[:2], SMALL_BI[2] | dict(routing=routing), SMALL_BI[3]])


def crossformer():
    """Far groups of several tokens in the last stage."""
    return small_cross(arch=[*SMALL_CROSS[:3], SMALL_CROSS[3] | dict(interval=1)])


def dat_pp():
    """Several windows in the last stage."""
    return small_pp(arch=[*SMALL_PP[:3], SMALL_PP[3] | dict(window_size=3)])


def pyramid():
    return AttentionPyramid([dict(type='DeformableAttention'), dict(type='NeighborhoodAttention', kernel_size=3)],
                            (8, 16), depths=(2, 1), out_indices=(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize('make', [BACKBONES['DAT'], dat_pp, biformer, BACKBONES['DeBiFormer'], crossformer, pyramid],
                         ids=['DAT', 'DAT++', 'BiFormer', 'DeBiFormer', 'CrossFormer', 'AttentionPyramid'])
def test_a_backbone_in_onnx_takes_all_sizes(make, tmp_path):
    model = make().eval()
    run = onnx_session(recorded(model, torch.randn(1, 3, 131, 141), free(128)), tmp_path)
    for size in ((128, 128), (161, 192), (130, 256)):
        assert_alike(run, model, torch.randn(1, 3, *size), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('neck', [
    lambda: AttentionNeck([8, 8], dict(type='LocalAttention', num_heads=2, window_size=3)),
    lambda: CrossScaleNeck([8, 8], 8, num_heads=2, group_size=3, num_outs=3)], ids=['AttentionNeck', 'CrossScaleNeck'])
def test_a_neck_is_recorded_once_for_all_sizes(neck):
    neck = neck().eval()
    maps = [torch.randn(1, 8, 24, 36), torch.randn(1, 8, 12, 18)]
    run = recorded(neck, maps, [free(10, times=2), free(10)]).module()
    for height, width in ((12, 18), (10, 10), (15, 31)):
        assert_alike(run, neck, [torch.randn(1, 8, 2 * height, 2 * width), torch.randn(1, 8, height, width)],
                     rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('layer', [
    lambda: BiLevelRoutingAttention(24, 3, num_windows=3, topk=2, pad='after'),
    lambda: DeformableAttention(24, 3, offsets=False, stride=2)], ids=['regions of another number', 'means of cells'])
def test_not_free(layer):
    with pytest.raises(torch._dynamo.exc.UserError, match='Constraints violated'):
        recorded(layer().eval(), torch.randn(1, 24, *SIZES[0]), free(10))


@pytest.mark.slow
@pytest.mark.parametrize(('layer', 'reason'), [
    (lambda: BiLevelRoutingAttention(24, 3, num_windows=3, kv_sampling='ada_avgpool', kv_size=2), 'invalid index'),
    (lambda: BiLevelRoutingAttention(24, 3, num_windows=3, kv_sampling='ada_maxpool', kv_size=2), 'adaptive_max_pool'),
    (lambda: BiLevelRoutingAttention(24, 3, num_windows=3, kv_sampling='fracpool', kv_size=2), 'fractional_max_pool2d'),
    (lambda: ConditionalPositionEncoding(24, rows=5), 'Conv')],
    ids=['ada_avgpool', 'ada_maxpool', 'fracpool', 'a kernel for each row'])
def test_not_free_in_onnx(layer, reason, tmp_path):
    layer = layer().eval()
    program = recorded(layer, torch.randn(1, 24, *SIZES[0]), free(10))
    with pytest.raises(Exception, match=reason):
        onnx_session(program, tmp_path)(torch.randn(1, 24, 30, 12))


@pytest.mark.parametrize(('size', 'kernel'), [((1, 20), 7), ((7, 8), 7), ((9, 26), 3), ((5, 21), 13)])
def test_strips_of_neighbourhoods_equal_the_formula(size, kernel):
    q, k, v = torch.randn(3, 2, 3, *size, 4, dtype=torch.double)
    table = torch.randn(3, 2 * kernel - 1, 2 * kernel - 1, dtype=torch.double)
    torch.testing.assert_close(_strips(q, k, v, table, kernel, 0.0),
                               reference.neighborhood_attention(q, k, v, table, kernel))
