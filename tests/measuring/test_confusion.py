"""What is taken for what, against counts by hand and against what mmseg's own metric says."""
import numpy as np
import pytest
import torch

from mmattn.errors import UsageError
from mmattn.measuring.confusion import Confusion, count_objects, count_pixels


def predicted(*boxes):
    """Of (left, top, right, bottom, label, score)."""
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6)
    return dict(bboxes=table[:, :4], labels=table[:, 4].long(), scores=table[:, 5])


def instance(left, top, right, bottom, label, ignored=0):
    return dict(bbox=[left, top, right, bottom], bbox_label=label, ignore_flag=ignored)


def test_objects_by_hand():
    truth = [instance(0, 0, 10, 10, 0), instance(20, 0, 30, 10, 1), instance(40, 0, 50, 10, 1),
             instance(100, 0, 200, 100, 0, ignored=1)]
    found = predicted((0, 0, 10, 9, 1, 0.7),            # a 0 taken for a 1,
                      (0, 0, 10, 10, 0, 0.6),           # which a lower score does not mend: this one finds nothing
                      (21, 0, 31, 10, 1, 0.9),          # right
                      (40, 6, 50, 16, 1, 0.8),          # too little of the third, and so is nothing
                      (40, 0, 50, 10, 1, 0.2),          # below the score
                      (120, 20, 140, 40, 0, 0.9))       # in a crowd
    counts = count_objects(truth, found, 3, score=0.3, iou=0.5)
    assert counts.tolist() == [[0, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert count_objects(truth, predicted(), 3, 0.3, 0.5).tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]
    assert count_objects([], found, 3, 0.3, 0.5).tolist() == [[0, 0, 0], [0, 0, 0], [2, 3, 0]]


def test_figures_of_classes():
    found = Confusion(['a', 'b', 'c'], np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]), images=1)
    assert found.recall[:2] == pytest.approx([3 / 4, 4 / 6])
    assert found.precision[:2] == pytest.approx([3 / 5, 4 / 5])
    assert found.iou[:2] == pytest.approx([3 / 6, 4 / 7])
    assert np.isnan([found.recall[2], found.precision[2], found.iou[2]]).all()


def test_pixels_are_those_of_the_metric_of_mmseg():
    from mmseg.evaluation import IoUMetric
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 5, (2, 7, 11))
    truth[0] = 255
    areas = IoUMetric.intersect_and_union(torch.tensor(labels), torch.tensor(truth), 5, 255)
    found = Confusion([*'abcde'], count_pixels(truth, labels, 5, {255}), images=1)
    assert found.counts.sum() == 6 * 11
    assert found.iou == pytest.approx((areas[0] / areas[1]).numpy())


@pytest.mark.parametrize(('labels', 'message'), [
    (np.zeros((3, 5), int), r'of \(3, 5\) pixels was predicted for an image of \(3, 4\)'),
    (np.full((3, 4), 2), 'labels 2 to 2 were predicted, there are 2 classes'),
    (np.full((3, 4), -1), 'labels -1 to -1')])
def test_maps_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(UsageError, match=message):
        count_pixels(np.zeros((3, 4), int), labels, 2, {255})
