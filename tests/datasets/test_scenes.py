import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmattn.datasets import scenes


@pytest.fixture(scope='module')
def root(write_scenes):
    return write_scenes(training=6, validation=3)


def test_same_pixels_every_time_and_splits_differ():
    image, labels, masks = scenes.scene('training', 3)
    again, *_ = scenes.scene('training', 3)
    other, *_ = scenes.scene('validation', 3)
    assert np.array_equal(image, again)
    assert not np.array_equal(image, other)
    assert image.shape == (*scenes.SIZE, 3)
    assert len(labels) == len(masks)


@pytest.mark.parametrize('number', range(20))
def test_shapes_are_disjoint_and_visible(number):
    _, labels, masks = scenes.scene('training', number)
    assert 1 <= len(labels) <= scenes.SHAPES[1]
    assert masks.sum(0).max() == 1
    assert masks.sum((1, 2)).min() > 20


def test_semantic_map_agrees_with_the_masks():
    _, labels, masks = scenes.scene('training', 1)
    label_map = scenes.semantic_map(labels, masks)
    for label, mask in zip(labels, masks):
        assert (label_map[mask] == label + 2).all()
    assert (label_map[~masks.any(0)] == 1).all()


@pytest.mark.parametrize('kind', scenes.CLASSES)
def test_outlines_reach_their_radius(kind):
    corners = scenes.outline(kind, (50, 40), 10, 0.3)
    assert np.linalg.norm(corners - (50, 40), axis=1).max() == pytest.approx(10)


def test_written_annotations_are_what_was_drawn(root):
    coco = COCO(str(root / 'annotations' / 'instances_training.json'))
    assert len(coco.imgs) == 6
    for number, info in coco.imgs.items():
        image, labels, masks = scenes.scene('training', number)
        assert np.array_equal(cv2.imread(str(root / 'images' / 'training' / info['file_name'])), image)
        annotations = coco.loadAnns(coco.getAnnIds(number))
        assert [a['category_id'] - 1 for a in annotations] == labels.tolist()
        for annotation, mask in zip(annotations, masks):
            assert np.array_equal(coco.annToMask(annotation), mask)
            ys, xs = np.nonzero(mask)
            x, y, width, height = annotation['bbox']
            assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        label_map = cv2.imread(str(root / 'annotations' / 'training' / info['file_name']), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(label_map, scenes.semantic_map(labels, masks))
    assert json.loads((root / 'annotations' / 'instances_validation.json').read_text())['categories'][4] == {
        'id': 5, 'name': 'cross'}
