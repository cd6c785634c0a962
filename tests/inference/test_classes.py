"""Where the names and colours of classes come from."""
import pytest
from mmengine.config import Config

from mmattn.inference.classes import find_classes

COLORS = [(0, 0, 1), (0, 0, 2), (0, 0, 3)]


def config(count, **metainfo):
    return Config(dict(default_scope='mmdet', model=dict(bbox_head=dict(num_classes=count)), test_dataloader=dict(
        dataset=dict(type='CocoDataset', metainfo=metainfo))))


def find(cfg, saved):
    return find_classes(cfg, cfg.test_dataloader.dataset, saved)


def test_those_of_the_checkpoint_come_first_with_its_colours():
    cfg = config(2, classes=('a', 'b'), palette=COLORS)
    known, complaint = find(cfg, dict(classes=('x', 'y'), palette=COLORS[1:]))
    assert known.names == ('x', 'y')
    assert known.palette == tuple(COLORS[1:])
    assert not complaint
    known, complaint = find(cfg, {})
    assert known.names == ('a', 'b')
    assert known.palette == tuple(COLORS[:2])


def test_names_that_do_not_fit_the_model_are_told():
    cfg = config(2, classes=('a', 'b'))
    known, complaint = find(cfg, dict(classes=('x', 'y', 'z')))
    assert known.names == ('a', 'b')
    assert complaint == 'the model has 2 classes, and the checkpoint names 3; taking names that fit'
    known, complaint = find(config(4, classes=('a', 'b')), dict(classes=('x',)))
    assert known.names == ('class 0', 'class 1', 'class 2', 'class 3')
    assert complaint == ('the model has 4 classes, and the checkpoint names 1 and the data set of the config names 2; '
                         'calling them by their numbers')


@pytest.mark.parametrize('palette', [None, 'random', COLORS[:1]])
def test_colours_that_are_missing_are_made_up_and_differ(palette):
    names = tuple(f'c{i}' for i in range(20))
    known, _ = find(config(20, classes=names), dict(classes=names, palette=palette))
    assert len(set(known.palette)) == 20
    assert all(0 <= part <= 255 for color in known.palette for part in color)


def test_a_binary_segmentor_has_two_classes():
    cfg = Config(dict(default_scope='mmseg', model=dict(decode_head=dict(num_classes=1)), test_dataloader=dict(
        dataset=dict(type='BaseSegDataset', metainfo=dict(classes=('no', 'yes'))))))
    known, complaint = find(cfg, {})
    assert known.names == ('no', 'yes')
    assert not complaint
