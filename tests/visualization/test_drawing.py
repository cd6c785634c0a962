import numpy as np
import pytest
import torch
from matplotlib.collections import PatchCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.quiver import Quiver

from mmattn.visualization import drawing, record_attention
from mmattn.visualization.hook import pixels
from tests.models import small, small_bi, small_cross
from tests.visualization.test_recording import Detector, known_points, sample

IMAGE = np.full((64, 96, 3), 128, np.uint8)


@pytest.fixture
def axis():
    figure, axes = drawing.new_figure(1, 1, IMAGE.shape[:2])
    drawing.show_image(axes[0, 0], IMAGE, 'title')
    yield axes[0, 0]
    figure.canvas.draw()


def records(model, **options):
    with torch.no_grad(), record_attention(model.eval(), queries=[(40, 30)], **options) as found:
        model(torch.randn(1, 3, 64, 96))
    return found


def of_type(axis, kind):
    return [artist for artist in axis.get_children() if type(artist) is kind]


def test_points_are_where_they_were_recorded_and_as_large_as_what_they_receive(axis):
    found = records(small())
    record = next(record for record in found if record.points is not None)
    drawing.draw_points(axis, [record], most=7)
    points, = of_type(axis, PathCollection)
    received = record.received.unflatten(0, (len(record.points), -1)).mean(1).flatten()
    chosen = received.topk(7).indices
    np.testing.assert_allclose(points.get_offsets(), record.points.flatten(0, 2)[chosen], rtol=1e-5)
    assert points.get_sizes().tolist() == sorted(points.get_sizes(), reverse=True)
    arrows, = of_type(axis, Quiver)
    np.testing.assert_allclose(arrows.XY, record.references.expand_as(record.points).flatten(0, 2)[chosen], rtol=1e-5)
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), record.offsets.flatten(0, 2)[chosen], rtol=1e-5)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [f'stage {record.stage + 1}']


def test_points_of_one_group(axis):
    record = next(record for record in records(small()) if record.points is not None and len(record.points) > 1)
    drawing.draw_points(axis, [record], most=10 ** 6, arrows=False, group=1)
    points, = of_type(axis, PathCollection)
    assert len(points.get_offsets()) == record.points[0].numel() / 2
    with pytest.raises(ValueError, match=f'group=9 is not one of the {len(record.points)} offset groups of stages'):
        drawing.draw_points(axis, [record], group=9)


def test_keys_of_a_query(axis):
    record = records(small_bi())[0]
    share = drawing.draw_query(axis, record, most=5)
    keys, = of_type(axis, PathCollection)
    assert len(keys.get_offsets()) == 5
    weights = record.queries[0].weights.mean(0)
    assert share == pytest.approx(float(weights.topk(5).values.sum()))
    np.testing.assert_allclose(keys.get_offsets()[-1], record.queries[0].keys[0, weights.argmax()])
    box, = (patch for patch in of_type(axis, Rectangle) if patch.get_edgecolor()[1] == 1)
    assert box.get_xy() == record.queries[0].box[:2]
    assert drawing.draw_query(axis, record, head=0, most=10 ** 6) == pytest.approx(1)
    for options, message in ((dict(query=3), 'query=3 was not recorded; there are 1'),
                             (dict(head=8), 'head=8 is not one of')):
        with pytest.raises(ValueError, match=message):
            drawing.draw_query(axis, record, **options)


def test_heads_share_the_points_of_their_group():
    record = next(record for record in records(small()) if record.points is not None and len(record.points) > 1)
    query = record.queries[0]
    keys, weights = drawing.merge_heads(query)
    assert len(keys) == len(weights) == record.points.numel() / 2
    assert float(weights.sum()) == pytest.approx(1)


def test_routes_and_how_often_each_region_is_chosen(axis):
    record = records(small_bi())[0]
    drawing.draw_routes(axis, record)
    dark, bright, *_ = of_type(axis, PatchCollection)
    own = tuple(int((edges <= at).sum()) - 1 for edges, at in (
        (record.regions[:, 0, 1], 30), (record.regions[0, :, 0], 40)))
    assert len(bright.get_paths()) == record.routes.shape[2]
    assert len(dark.get_paths()) == record.regions.shape[:2].numel() - record.routes.shape[2]
    corner = record.regions.flatten(0, 1)[record.routes[own][0], :2]
    assert corner.tolist() in bright.get_paths()[0].vertices.tolist()
    drawing.draw_route_counts(axis, record)
    counts = of_type(axis, PatchCollection)[-1].get_array()
    assert counts.sum() == record.routes.numel()


@pytest.mark.parametrize('kind', ['ShortDistanceAttention', 'LongDistanceAttention'])
def test_the_group_of_a_query(axis, kind):
    record = next(record for record in records(small_cross()) if record.kind == kind)
    drawing.draw_group(axis, record)
    tokens, = of_type(axis, PatchCollection)
    x, y = record.queries[0].box[:2]
    assert [x, y] in [path.vertices[0].tolist() for path in tokens.get_paths()]
    label = record.groups[int(y / record.stride), int(x / record.stride)]
    assert len(tokens.get_paths()) == (record.groups == label).sum()


def test_what_a_record_lacks_is_named(axis):
    points, routes = records(small())[0], records(small_bi())[0]
    for wrong, message in (
            (lambda: drawing.draw_points(axis, [routes]), 'the model has no deformable attention'),
            (lambda: drawing.draw_routes(axis, points), 'which has no routes; BiLevelRoutingAttention has'),
            (lambda: drawing.draw_group(axis, routes), 'which has no groups; windows and CrossFormer have')):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_boxes_masks_and_label_maps(axis):
    masks = np.zeros((1, 64, 96), bool)
    masks[0, 10:20, 30:50] = True
    boxes, labels, scores = torch.tensor([[30, 10, 50, 20]]), torch.tensor([1]), torch.tensor([0.5])
    drawing.draw_instances(axis, boxes, labels, ['a', 'b'], scores, masks)
    assert axis.texts[-1].get_text() == 'b 0.50'
    assert axis.texts[-1].get_va() == 'bottom'
    higher = boxes - torch.tensor([0, 10, 0, 10])
    drawing.draw_instances(axis, higher, labels, ['a', 'b'], palette=[(1, 2, 3), (0, 51, 255)])
    assert axis.texts[-1].get_va() == 'top'         # at the edge of the image, where it would be cut
    assert axis.patches[-1].get_edgecolor() == (0, 0.2, 1, 1)
    drawing.draw_label_map(axis, np.where(masks[0], 1, 255), ['a', 'b'])
    assert axis.texts[-1].get_text() == 'b'
    assert 30 <= axis.texts[-1].get_position()[0] < 50


def test_a_drawn_point_is_within_half_a_pixel_of_where_arithmetic_says():
    """An image of 90 x 120 pixels, resized to 60 x 96, padded to 64 x 128, drawn with 8 pixels for each of its own."""
    detector = Detector(known_points(small().eval(), (0.25, -0.5)))
    meta = dict(ori_shape=(90, 120), scale_factor=(96 / 120, 60 / 90))
    with torch.no_grad(), record_attention(detector) as found:
        detector(torch.randn(1, 3, 64, 128), data_samples=[sample(**meta)])
    record = next(record for record in found if record.points is not None)
    figure = Figure((12, 9), dpi=80)
    axis = figure.add_axes((0, 0, 1, 1))
    drawing.show_image(axis, np.zeros((90, 120, 3), np.uint8))
    axis.set_title('')
    drawing.draw_points(axis, [record], most=1, arrows=False, group=0)
    axis.get_legend().remove()
    lit = pixels(figure).max(-1) > 100
    assert lit.shape == (720, 960)
    y, x = (float(at.mean() + 0.5) / 8 for at in lit.nonzero())
    rows, columns = record.points.shape[1:3]
    row, column = divmod(int(record.received.unflatten(0, (len(record.points), -1)).mean(1)[0].argmax()), columns)
    height, width = record.size
    along_y = (2 * (row + 0.5) / rows - 1 + 0.25 + 1) / 2 * (height - 1) + 0.5             # pixels of the map
    along_x = (2 * (column + 0.5) / columns - 1 - 0.5 + 1) / 2 * (width - 1) + 0.5
    assert y == pytest.approx(along_y * record.stride * 90 / 60, abs=0.5)
    assert x == pytest.approx(along_x * record.stride * 120 / 96, abs=0.5)
