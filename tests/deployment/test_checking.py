"""What counts as a difference between onnxruntime and eager mode."""
import numpy as np
import pytest

from mmattn.deployment.checking import LABELS, PIXELS, SHARE, Difference, differences

BOXES = np.float32([[[0, 0, 10, 10], [5, 5, 20, 20], [1, 2, 3, 4], [0, 0, 0, 0]]])
SCORES, CLASSES = np.float32([[0.9, 0.5, 0.2, 0.0]]), np.array([[2, 1, 1, -1]])


def detections(boxes=BOXES, scores=SCORES, labels=CLASSES):
    return dict(boxes=boxes, scores=scores, labels=labels)


def wrong(*sides, threshold=0.0):
    return [one.output for one in differences(*sides, 'scene', threshold) if one.share > 1]


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def test_the_same_detections_in_another_order_are_the_same():
    order = [2, 0, 1, 3]
    other = detections(BOXES[:, order], SCORES[:, order], CLASSES[:, order])
    found = differences(other, detections(), 'scene')
    assert [one.value for one in found] == [0, 0, 0]
    assert 'of 6 without a partner' in str(found[0])


@pytest.mark.parametrize('other', [
    detections(boxes=changed(BOXES, (0, 1, 2), 20.1)), detections(scores=changed(SCORES, (0, 1), 0.51)),
    detections(labels=changed(CLASSES, (0, 1), 0)), detections(scores=changed(SCORES, (0, 1), 0)),
    detections(boxes=changed(BOXES, (0, 1, 2), np.nan))], ids=['box', 'score', 'label', 'missing', 'nan'])
def test_another_detection_is_a_difference_on_either_side(other):
    assert wrong(other, detections()) == ['detections']
    assert wrong(detections(), other) == ['detections']


def test_small_differences_are_measured():
    other = detections(boxes=changed(BOXES, (0, 1, 2), 20.02), scores=changed(SCORES, (0, 0), 0.9004))
    found = differences(other, detections(), 'scene')
    assert [one.value for one in found] == pytest.approx([0, 0.02, 4e-4], abs=1e-5)
    assert not wrong(other, detections())


def test_what_may_be_cut_is_not_looked_for():
    full = detections(BOXES[:, :3], SCORES[:, :3], CLASSES[:, :3])
    assert not wrong({**full, 'boxes': changed(BOXES, (0, 2), 7)[:, :3]}, full)
    gone = detections(scores=changed(SCORES, (0, 2), 0))
    assert wrong(gone, detections()) == ['detections']
    assert not wrong(gone, detections(), threshold=0.2)


def test_boxes_before_suppression_are_compared_by_their_best_class():
    scores = np.float32([[[0.9, 0.1], [0.2, 0.5], [0.2, 0.1], [0.0, 0.0]]])
    raw, other = dict(boxes=BOXES, scores=scores), dict(boxes=BOXES[:, ::-1], scores=scores[:, ::-1])
    assert not wrong(other, raw)
    assert wrong(dict(raw, boxes=changed(BOXES, (0, 0, 0), 1)), raw) == ['detections']


def test_label_maps_and_logits():
    labels = np.zeros((1, 50, 50), np.int64)
    assert not wrong(dict(labels=changed(labels, (0, 1, [1, 2]), 1)), dict(labels=labels))
    assert wrong(dict(labels=changed(labels, (0, 1, [1, 2, 3]), 1)), dict(labels=labels)) == ['labels']
    logits = np.float32([[1, 10]])
    assert not wrong(dict(logits=logits + 0.9 * 10 * SHARE), dict(logits=logits))
    assert wrong(dict(logits=logits + 1.1 * 10 * SHARE), dict(logits=logits)) == ['logits']
    assert wrong(dict(logits=logits * np.nan), dict(logits=logits)) == ['logits']


def test_words():
    assert str(Difference('boxes', 'noise', 0.0012, PIXELS, 'pixels')) == 'boxes on noise: 0.0012 pixels (up to 0.05)'
    assert LABELS == SHARE == 1e-3
