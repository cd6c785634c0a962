import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from mmattn import layers
from mmattn.layers.attended import centers
from mmattn.necks import AttentionNeck
from mmattn.visualization import Frame, record_attention
from tests.models import small, small_bi, small_cross, small_debi, small_pp

BACKBONES = {'DAT': small, 'DAT++': small_pp, 'BiFormer': small_bi, 'CrossFormer': small_cross,
             'DeBiFormer': small_debi}
each_backbone = pytest.mark.parametrize('make', BACKBONES.values(), ids=BACKBONES)


class Detector(nn.Module):
    """What mmdet's and mmseg's models look like from outside."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.data_preprocessor = backbone, None

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.backbone(inputs)


def sample(**meta):
    element = BaseDataElement()
    element.set_metainfo(meta)
    return element


@each_backbone
@pytest.mark.parametrize('training', [False, True])
def test_recording_changes_no_bit_and_leaves_nothing_behind(make, training):
    model, x = make().train(training), torch.randn(2, 3, 61, 90)
    torch.manual_seed(1)
    plain = model(x)
    chance = torch.rand(3)
    with record_attention(model, queries=[(20, 30)]) as records:
        torch.manual_seed(1)
        outs = model(x)
        assert torch.equal(torch.rand(3), chance)
    assert all(torch.equal(a, b) for a, b in zip(plain, outs))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    known = [name for name, module in model.named_modules() if type(module).__name__ in {r.kind for r in records}]
    assert [(r.layer, r.image) for r in records] == [(name, i) for name in known for i in (0, 1)]
    assert all(r.stage == int(r.layer.split('.')[1]) and r.stride == 4 * 2 ** r.stage for r in records)
    assert all(len(r.queries) == 1 for r in records)


def test_gradients_stay_and_checkpointed_blocks_are_recorded_once():
    model, x = small(with_cp=True).train(), torch.randn(1, 3, 64, 64, requires_grad=True)
    sum(out.square().sum() for out in model(x)).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with record_attention(model) as records:
        sum(out.square().sum() for out in model(x)).backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), plain))
    assert len({r.layer for r in records}) == len(records)


def test_gradients_stay_under_autocast():
    model, x = small().train(), torch.randn(1, 3, 64, 64)

    def gradients():
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16):
            outs = model(x)
        sum(out.float().square().sum() for out in outs).backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    with record_attention(model, queries=[(10, 10)]):
        recorded = gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded))


def test_a_compiled_model_is_recorded_uncompiled_and_stays_compiled():
    model, x = small_bi().eval(), torch.randn(1, 3, 64, 64)
    compiled = torch.compile(model, backend='eager')
    with torch.no_grad():
        compiled(x)
        with record_attention(compiled) as records:
            outs = compiled(x)
        assert {r.layer for r in records} >= {'stages.0.blocks.0.attn'}
        assert all(torch.equal(a, b) for a, b in zip(outs, model(x)))
        count = torch._dynamo.utils.counters['stats']['unique_graphs']
        compiled(x)
        assert torch._dynamo.utils.counters['stats']['unique_graphs'] == count


def known_points(model, offset):
    """Make every deformable layer move its points by the same raw offset (y, x)."""
    for module in model.modules():
        if isinstance(module, layers.DeformableAttention):
            module.sampling_points = lambda q, layer=module, of=module.sampling_points: _moved(of(q), offset)
    return model


def _moved(found, offset):
    _, references = found
    points = (references + references.new_tensor(offset)).expand_as(found[0])
    return points, references


@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical', 'diagonal'])
def test_a_known_offset_is_where_arithmetic_says(flip):
    """An image of 90 x 120 pixels, resized to 60 x 96, padded to 64 x 128."""
    model = known_points(small(), (0.25, -0.5)).eval()
    detector = Detector(model)
    meta = dict(ori_shape=(90, 120), img_shape=(60, 96), scale_factor=(96 / 120, 60 / 90), flip=flip is not None,
                flip_direction=flip)
    with torch.no_grad(), record_attention(detector, layers='attn') as records:
        detector(torch.randn(1, 3, 64, 128), data_samples=[sample(**meta)])
    found = [r for r in records if r.points is not None]
    assert found
    for record in found:
        height, width = record.size
        stride = 4 * 2 ** record.stage
        assert (height, width) == (64 / stride, 128 / stride)
        rows, columns = record.points.shape[1:3]
        for row, column in ((0, 0), (rows - 1, columns // 2)):
            # from the centre of the first pixel (-1) to that of the last (1); reference 2 (i + 0.5) / n - 1
            y = ((2 * (row + 0.5) / rows - 1 + 0.25 + 1) / 2 * (height - 1) + 0.5) * stride * 90 / 60
            x = ((2 * (column + 0.5) / columns - 1 - 0.5 + 1) / 2 * (width - 1) + 0.5) * stride * 120 / 96
            x = 120 - x if flip in ('horizontal', 'diagonal') else x
            y = 90 - y if flip in ('vertical', 'diagonal') else y
            wanted = torch.tensor([[x, y]]).expand(len(record.points), 2)
            torch.testing.assert_close(record.points[:, row, column], wanted, rtol=0, atol=1e-3)
        moved = torch.tensor([-0.5 / 2 * (width - 1) * stride * 120 / 96, 0.25 / 2 * (height - 1) * stride * 90 / 60])
        moved *= torch.tensor([1 if flip in (None, 'vertical') else -1, 1 if flip in (None, 'horizontal') else -1])
        torch.testing.assert_close(record.offsets, moved.expand_as(record.offsets), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(record.received.sum((1, 2)), torch.ones(len(record.received)))


def test_a_frame_goes_both_ways():
    frame = Frame(stride=8, scale=(0.8, 1.5), size=(90, 120), flip='diagonal')
    positions = torch.tensor([[3.0, 4.0], [119.0, 0.5]])
    torch.testing.assert_close(frame.to_image(frame.to_map(positions)), positions)


def test_regions_routes_and_groups():
    bi, cross = small_bi().eval(), small_cross().eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad(), record_attention(bi) as routed:
        bi(x)
    with torch.no_grad(), record_attention(cross) as grouped:
        cross(x)
    record = routed[0]
    assert record.kind == 'BiLevelRoutingAttention'
    gy, gx = record.regions.shape[:2]
    assert record.routes.shape[:2] == record.scores.shape[:2] == (gy, gx)
    assert record.routes.max() < gy * gx
    assert record.regions[0, 0, :2].tolist() == [0, 0]
    assert record.regions[-1, -1, 2] >= 96
    assert record.regions[-1, -1, 3] >= 64
    kinds = {r.kind: r.groups for r in reversed(grouped) if r.groups is not None and r.groups.max() > 0}
    near, far = kinds['ShortDistanceAttention'], kinds['LongDistanceAttention']
    assert near[0, 0] == near[0, 1]
    assert far[0, 0] != far[0, 1]
    assert (far == far[0, 0]).sum() > 1


def test_only_the_strongest_keys():
    model, x = small().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), record_attention(model, queries=[(10, 20)]) as every:
        model(x)
    with torch.no_grad(), record_attention(model, queries=[(10, 20)], top=5) as some:
        model(x)
    for whole, part in zip(every, some):
        keys, weights = part.queries[0].keys, part.queries[0].weights
        assert keys.shape == (*weights.shape, 2)
        assert weights.shape[1] == min(5, whole.queries[0].weights.shape[1])
        torch.testing.assert_close(weights.sort(-1, descending=True).values,
                                   whole.queries[0].weights.topk(weights.shape[1], -1).values)
        assert whole.queries[0].position == (10, 20)
        left, top, right, bottom = whole.queries[0].box
        assert left <= 10 < right
        assert top <= 20 < bottom


def test_a_neck_and_a_layer_alone():
    neck = AttentionNeck([8, 8], dict(type='LocalAttention', num_heads=2), levels=[1]).eval()
    with record_attention(neck) as records:
        neck([torch.randn(1, 8, 16, 16), torch.randn(1, 8, 8, 8)])
    assert [(r.stride, r.stage, r.size) for r in records] == [(1, None, (8, 8))]
    layer = layers.DeformableAttention(8, 2)
    with record_attention(layer) as records:
        layer(torch.randn(1, 8, 5, 7))
    assert (records[0].layer, records[0].points.shape) == ('', (1, 5, 7, 2))


class Mean(nn.Module):
    """An attention that this package does not know: every pixel to all of them alike, in one head."""

    def forward(self, x):
        return x.mean((2, 3), keepdim=True).expand_as(x)

    def attended(self, x, pixels=()):
        places = centers(x.shape[2:]).flatten(0, 1)[None]
        return layers.Attended([layers.Keys(places, torch.full(places.shape[:2], 1 / places.shape[1]))
                                for _ in pixels])


def test_a_layer_of_ones_own_is_recorded_by_what_it_says():
    network = nn.Sequential(nn.Conv2d(3, 4, 2, 2), Mean())
    with record_attention(network, queries=[(5, 3)]) as records:
        network(torch.randn(2, 3, 8, 12))
    assert [(r.layer, r.kind, r.image, r.stride) for r in records] == [('1', 'Mean', 0, 2), ('1', 'Mean', 1, 2)]
    query, = records[0].queries
    assert query.box == (4, 2, 6, 4)
    assert query.keys[0, 0].tolist() == [1, 1]
    assert query.weights.sum().item() == pytest.approx(1)


def test_a_compiled_layer_is_recorded_once():
    layer = torch.compile(layers.LocalAttention(8, 2, window_size=3), backend='eager')
    with record_attention(layer) as records:
        layer(torch.randn(1, 8, 5, 7))
    assert [r.kind for r in records] == ['LocalAttention']


@pytest.mark.parametrize(('options', 'message'), [
    (dict(layers='head'), "layers='head' matches no attention layer of DAT; it has stages.0.blocks.0.attn, "),
    (dict(queries=[(65, 3)]), r'query \(x, y\) = \(65, 3\) is outside the image, which is 64 pixels wide and 48 high'),
])
def test_wrong_uses_say_what_is_right(options, message):
    model = small().eval()
    with pytest.raises(ValueError, match=message), record_attention(model, **options):
        model(torch.randn(1, 3, 48, 64))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_cuts_its_input_is_refused():
    class Sliding(Detector):
        def forward(self, inputs, data_samples=None):
            return self.backbone(inputs[..., :64, :64])

    model = Sliding(small().eval())
    with record_attention(model), pytest.raises(ValueError, match="cuts it into pieces, as mmseg's test_cfg"):
        model(torch.randn(1, 3, 128, 128))


def test_images_without_their_padding_are_recorded_as_alone():
    model, plain = Detector(small(cut_padding=True).eval()), Detector(small().eval())
    plain.load_state_dict(model.state_dict())
    sizes = [(40, 64), (50, 30), (40, 64)]
    x = torch.zeros(3, 3, 64, 64)
    for image, (height, width) in zip(x, sizes):
        image[:, :height, :width] = torch.randn(3, height, width)
    metas = [dict(ori_shape=(2 * height, 2 * width), scale_factor=(0.5, 0.5)) for height, width in sizes]
    with torch.no_grad(), record_attention(model, layers='attn', queries=[(20, 70)]) as together:
        model(x, data_samples=[sample(**meta) for meta in metas])
    for i, (height, width) in enumerate(sizes):
        with torch.no_grad(), record_attention(plain, layers='attn', queries=[(20, 70)]) as alone:
            plain(x[i:i + 1, :, :height, :width], data_samples=[sample(**metas[i])])
        found = [record for record in together if record.image == i]
        for a, b in zip(found, alone, strict=True):
            assert (a.layer, a.size, a.frame) == (b.layer, b.size, b.frame)
            torch.testing.assert_close(a.queries[0].weights, b.queries[0].weights)
            torch.testing.assert_close(a.queries[0].keys, b.queries[0].keys)
            if a.points is not None:
                torch.testing.assert_close(a.points, b.points)


def test_a_model_without_attention():
    with pytest.raises(ValueError, match='it has none of mmattn'), record_attention(nn.Conv2d(3, 3, 1)):
        pass
