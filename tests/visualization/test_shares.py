from types import SimpleNamespace

import pytest
import torch

from mmattn.layers import DeformableAttention
from mmattn.visualization import Frame, Record, record_attention
from mmattn.visualization.shares import Shares, at, shares_inside


def record(points, received, references=((1, 1), (3, 1)), size=(2, 4)):
    """Of a layer with one row of points, given by group and by head."""
    points, received, references = (torch.tensor(t, dtype=torch.float) for t in (points, received, references))
    return Record('attn', 'DeformableAttention', 0, (1, 2), Frame(2, size=size), points=points[:, None],
                  references=references[None], received=received[:, None])


def pixels(*places, size=(2, 4)):
    mask = torch.zeros(size, dtype=torch.bool)
    for place in places:
        mask[place] = True
    return mask


def test_shares_by_hand():
    mask = pixels((0, 1), (1, 1), (1, 2))
    # Two groups of two heads; of the first one's points the first is inside, of the second one's the second.
    seen = record([[(1.9, 0.1), (3.0, 1.0)], [(0.9, 1.9), (2.0, 1.0)]],
                  [(0.5, 0.5), (0.25, 0.75), (0.125, 0.875), (1, 0)])
    assert shares_inside(seen, mask) == Shares(3 / 8, 1 / 2, 1 / 2, (0.5 + 0.25 + 0.875 + 0) / 4)


def test_points_outside_of_the_image_are_outside_of_the_mask():
    everywhere = torch.ones(2, 4, dtype=torch.bool)
    seen = record([[(-0.1, 1), (4.0, 1)], [(1, 2.0), (1, 1)]], [(0.7, 0.3), (0.4, 0.6)], references=((0, 0), (4, 1)))
    assert shares_inside(seen, everywhere) == pytest.approx((1, 1 / 2, 1 / 4, 0.3))


def test_a_mask_of_one_pixel():
    seen = record([[(2.999, 1.999), (2.999, 0.999)]], [(0.2, 0.8)])
    assert shares_inside(seen, pixels((1, 2))) == pytest.approx((1 / 8, 0, 1 / 2, 0.2))


def test_ignored_pixels_do_not_count():
    seen = record([[(0.5, 0.5), (1.5, 0.5)], [(2.5, 0.5), (-1, 0.5)]], [(0.5, 0.5), (0.25, 0.75)])
    shares = shares_inside(seen, pixels((0, 0)), pixels((0, 1), (1, 1)))
    assert shares == pytest.approx((1 / 6, 0, 1 / 3, 0.5 / 1.5))
    nothing = shares_inside(seen, pixels(), torch.ones(2, 4, dtype=torch.bool))
    assert [share != share for share in nothing] == [True, True, False, False]      # one point is outside of the image


def test_values_at_points():
    values = torch.arange(6.).view(2, 3)
    assert at(values, torch.tensor([(0, 0), (2.5, 1.5), (1.0, 0.5), (3, 0), (0, -0.01)]), -1.).tolist() == [
        0, 5, 1, -1, -1]


def test_a_real_layer_with_uniform_attention():
    layer = DeformableAttention(24, num_heads=6, offset_groups=3, table_size=4, position_bias='none')
    layer.proj_q.weight.data.zero_()
    layer.proj_q.bias.data.zero_()
    model = torch.nn.Sequential(layer)
    with torch.no_grad(), record_attention(model) as records:
        model(torch.rand(1, 24, 8, 12))
    mask = torch.zeros(8, 12, dtype=torch.bool)
    mask[2:6, 3:9] = True
    shares = shares_inside(records[0], mask)
    assert shares.area == 0.25
    assert shares.attention == pytest.approx(shares.points)     # every point receives the same


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match='LocalAttention, samples no points'):
        shares_inside(SimpleNamespace(points=None, layer='attn', kind='LocalAttention'), pixels())
    with pytest.raises(ValueError, match=r'the mask is of \(2, 5\) pixels, the image of \(2, 4\)'):
        shares_inside(record([[(0, 0), (0, 0)]], [(0.5, 0.5)]), pixels(size=(2, 5)))
