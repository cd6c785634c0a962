"""Predictions painted into images."""
import numpy as np
import pytest

from mmattn.visualization.painting import DARK, OPACITY, paint_instances, paint_label_map

RED, PALE = (255, 0, 0), (250, 250, 240)
IMAGE = np.full((90, 120, 3), 200, np.uint8)


def has(image, color):
    return (image == color[::-1]).all(-1)


def test_a_box_is_painted_where_it_is_with_a_dark_edge_and_the_image_stays():
    before = IMAGE.copy()
    painted = paint_instances(IMAGE, np.array([[30, 40, 80, 70]]), ['cat 0.91'], [PALE])
    assert (before == IMAGE).all()
    assert painted.shape == IMAGE.shape
    assert has(painted, PALE)[[40, 70, 55, 55], [60, 60, 30, 80]].all()
    assert has(painted, DARK)[[41, 69, 55, 55], [60, 60, 31, 79]].all()      # a pale box is seen on a light image
    assert (painted[50:65, 40:70] == 200).all()


@pytest.mark.parametrize('box', [
    [30, 0, 80, 20], [0, 0, 119, 89], [100, 80, 120, 90], [-9, -9, 500, 500], [5, 5, 5, 5]])
def test_texts_stay_inside_of_the_image(box):
    middle = paint_instances(IMAGE, np.array([[40., 40, 60, 60]]), ['cat 0.91'], [RED])
    whole = (middle == 255).all(-1).sum()       # of white letters
    painted = paint_instances(IMAGE, np.array([box], float), ['cat 0.91'], [RED])
    assert (painted == 255).all(-1).sum() == whole > 5


def test_texts_avoid_each_other_where_there_is_room():
    boxes = np.array([[30, 30, 90, 60], [30, 30, 90, 60]])
    one = paint_instances(IMAGE, boxes[:1], ['cat 0.91'], [RED])
    two = paint_instances(IMAGE, boxes, ['cat 0.91'] * 2, [RED] * 2)
    assert (two == 255).all(-1).sum() == 2 * (one == 255).all(-1).sum()


def test_masks_let_the_image_through():
    mask = np.zeros((1, 90, 120), bool)
    mask[0, 40:80, 40:80] = True
    painted = paint_instances(IMAGE, np.array([[40, 40, 80, 80]]), [''], [RED], mask)
    expected = 200 * (1 - OPACITY) + np.array([0, 0, 255]) * OPACITY
    assert np.abs(painted[60, 60] - expected).max() <= 1
    assert (painted[85, 100] == 200).all()


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (50, 1), (3, 4)])
def test_the_smallest_images_are_painted(size):
    image = np.zeros((*size, 3), np.uint8)
    mask = np.ones((1, *size), bool)
    assert paint_instances(image, np.array([[0, 0, 1, 1]]), ['a long name'], [RED], mask).shape == image.shape
    labels = np.ones(size, np.uint8)
    assert paint_label_map(image, labels, ('a', 'b'), (RED, PALE)).shape == image.shape


def test_a_label_map_has_the_colours_of_its_classes_lines_between_them_and_a_legend():
    labels = np.zeros(IMAGE.shape[:2], np.uint8)
    labels[:, 60:] = 2
    painted = paint_label_map(IMAGE, labels, ('road', 'nothing', 'sky'), (RED, (0, 255, 0), (0, 0, 255)))
    for column, color in ((20, (0, 0, 255)), (100, (255, 0, 0))):
        assert np.abs(painted[20, column] - (200 * (1 - OPACITY) + np.array(color) * OPACITY)).max() <= 1
    assert has(painted, DARK)[:40, 60].all()
    legend = painted[-12:]
    assert has(legend, RED).any()
    assert has(legend, (0, 0, 255)).any()
    assert not has(legend, (0, 255, 0)).any()       # of a class that is not there
