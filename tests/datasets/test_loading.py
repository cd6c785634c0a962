import json
import multiprocessing
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope
from PIL import Image

from mmattn.datasets import loading
from mmattn.datasets.checking import check_masks
from mmattn.datasets.loading import IN_A_ROW, LoadOrSkip, decode, find_unloadable, glance, has_end, read_log
from mmattn.datasets.skipping import Skipped, leave_out, skip_in_training
from mmattn.errors import UsageError
from tests.conftest import ROOT

SCENE = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
LOAD = dict(type='LoadImageFromFile')


class Images(BaseDataset):
    """The images of a folder."""

    def load_data_list(self):
        return [dict(img_path=str(path)) for path in sorted(Path(self.data_root).glob('*.jpg'))]


class Pipeline(LoadOrSkip):
    """What a data loader collates."""

    def __call__(self, results):
        results = super().__call__(results)
        return results and torch.from_numpy(results['img'].copy())


@pytest.fixture
def folder(tmp_path):
    """Eight images, of which three are cut short."""
    for i in range(8):
        Image.fromarray(SCENE).save(tmp_path / f'{i}.jpg')
    for i in (1, 4, 5):
        (tmp_path / f'{i}.jpg').write_bytes((tmp_path / f'{i}.jpg').read_bytes()[:-100])
    return tmp_path


def test_valid_images_of_coco_and_ade20k_have_an_end():
    files = [*ROOT.glob('data/coco/*2017/*.jpg'), *ROOT.glob('data/ade/*/images/*/*.jpg'),
             *ROOT.glob('data/ade/*/annotations/*/*.png')]
    if not files:
        pytest.skip('no images in data')
    assert [path for path in files if not has_end(path.read_bytes()) or not glance(path)] == []


def test_an_older_opencv_that_decodes_the_upper_part_does_not_go_unnoticed(folder, monkeypatch):
    monkeypatch.setattr(mmcv, 'imfrombytes', lambda *args, **kwargs: SCENE)
    load = LoadOrSkip([LOAD])
    assert load(dict(img_path=str(folder / '0.jpg'))) is not None
    assert load(dict(img_path=str(folder / '1.jpg'))) is None
    assert list(find_unloadable(Images(data_root=str(folder)), [LOAD], range(8))) == [1, 4, 5]


def test_an_image_is_named_once(folder, monkeypatch):
    warnings = []
    monkeypatch.setattr(loading, 'print_log', lambda line, **kwargs: warnings.append(line))
    path, log = str(folder / '1.jpg'), str(folder / 'skipped.txt')
    for load in [LoadOrSkip([LOAD], log=log)] * 2 + [LoadOrSkip([LOAD], log=log)]:      # the last after resuming
        assert load(dict(img_path=path)) is None
    why = read_log(log)[path]
    assert why.startswith('OSError: image file is truncated')
    assert warnings == [f'skipped {path}: {why}']


def test_many_images_in_a_row_end_the_training(tmp_path):
    path = f'{tmp_path}/a.jpg'
    load = LoadOrSkip([LOAD])
    assert [load(dict(img_path=path)) for _ in range(IN_A_ROW - 1)] == [None] * (IN_A_ROW - 1)
    with pytest.raises(RuntimeError, match=f'{IN_A_ROW} samples in a row cannot be loaded, the last: {path}: '
                       'FileNotFoundError: .*; tools/check_data.py says what is wrong with a data set'):
        load(dict(img_path=path))


@pytest.mark.parametrize(('method', 'persistent'), [
    ('fork', False), ('fork', True), pytest.param('spawn', True, marks=pytest.mark.slow)])
def test_workers_write_one_file(folder, method, persistent):
    log = folder / 'skipped.txt'
    data = Images(data_root=str(folder), pipeline=[Pipeline([LOAD], log=str(log))])
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, persistent_workers=persistent,
                                         multiprocessing_context=multiprocessing.get_context(method))
    for _ in range(2):
        assert [len(batch) for batch in loader] == [2] * 4
    assert sorted(read_log(log)) == [str(folder / f'{i}.jpg') for i in (1, 4, 5)]


def config(folder, **settings):
    data = dict(type=Images, data_root=str(folder), pipeline=[dict(LOAD), dict(type='Pack')])
    return Config(dict(default_scope='mmengine', work_dir=str(folder), model=dict(type='Model'),
                       train_dataloader=dict(dataset=data), val_dataloader=dict(dataset=dict(data, **settings)),
                       val_evaluator=dict(type='Metric')))


@pytest.mark.parametrize(('indices', 'left', 'gone'), [
    (None, [0, 2, 3, 6, 7], [1, 4, 5]), (5, [0, 2, 3], [1, 4]), (-3, [6, 7], [5]), ([7, 4, 0], [7, 0], [4])])
def test_left_out_of_what_the_indices_choose(folder, indices, left, gone):
    cfg = config(folder, indices=indices)
    skipped = leave_out(cfg, 'val')
    assert cfg.val_dataloader.dataset.indices == left
    assert [line.partition(': OSError: ')[0] for line in skipped.lines] == [
        f'val: skipped {folder}/{i}.jpg' for i in gone]
    names = ', '.join(f'{i}.jpg' for i in gone)
    assert skipped.summary == (
        f'val: skipped {len(gone)} image(s) that cannot be loaded: {names}; the figures are of the others')


def test_whole_images_stay_as_they_are(folder):
    cfg = config(folder, indices=[0, 2])
    before = cfg.to_dict()
    assert leave_out(cfg, 'val') == Skipped()
    assert leave_out(cfg, 'test') == Skipped()
    assert cfg.to_dict() == before


def test_a_set_without_any_image_is_refused(folder):
    with pytest.raises(UsageError, match=rf'val_dataloader.dataset: none of 2 images can be loaded, the first: '
                       rf'{folder}/1.jpg: OSError: image file is truncated'):
        leave_out(config(folder, indices=[1, 4]), 'val')


def test_every_training_pipeline_is_wrapped_once(folder):
    steps = [dict(LOAD), dict(type='mmdet.LoadAnnotations', with_bbox=True), dict(type='Resize')]
    inner = dict(type='CocoDataset', pipeline=steps)
    cfg = Config(dict(work_dir=str(folder), model=dict(decode_head=[dict(num_classes=6), dict(num_classes=5)]),
                      train_dataloader=dict(dataset=dict(type='MultiImageMixDataset', pipeline=[dict(type='Mosaic')],
                                                         dataset=dict(type='ConcatDataset', datasets=[inner, inner]))),
                      custom_hooks=[dict(type='PipelineSwitchHook', switch_pipeline=steps), dict(type='EMAHook')]))
    wrapped = dict(type='mmattn.LoadOrSkip', transforms=steps[:2], classes=5, log=f'{folder}/skipped.txt')
    for _ in range(2):      # as from the config that a training leaves in its work directory
        assert skip_in_training(cfg) == f'{folder}/skipped.txt'
        mixed = cfg.train_dataloader.dataset
        assert mixed.pipeline == [dict(type='Mosaic')]
        for pipeline in (*(part.pipeline for part in mixed.dataset.datasets), cfg.custom_hooks[0].switch_pipeline):
            assert pipeline == [wrapped, dict(type='Resize')]
        assert cfg.custom_hooks[1] == dict(type='EMAHook')


def test_only_a_training_that_starts_anew_forgets(folder):
    log = folder / 'skipped.txt'
    for resume, left in ((True, True), (False, False)):
        log.write_text('a.jpg\tbroken\n')
        skip_in_training(Config(dict(config(folder), resume=resume)))
        assert log.exists() == left


def test_mixing_data_sets_take_another_sample(folder):
    cfg = Config(dict(
        type='MultiImageMixDataset', pipeline=[dict(type='Mosaic', img_scale=(32, 32), prob=1.0)],
        dataset=dict(type=Images, data_root=str(folder), pipeline=[
            dict(type='mmattn.LoadOrSkip', transforms=[LOAD], log=f'{folder}/skipped.txt'),
            dict(type='mmdet.LoadEmptyAnnotations')])))
    from mmdet.registry import DATASETS
    with DefaultScope.overwrite_default_scope('mmdet'):
        data = DATASETS.build(cfg)
        assert [data[i]['img'].shape for i in range(8)] == [(64, 64, 3)] * 8
    assert sorted(read_log(folder / 'skipped.txt')) == [str(folder / f'{i}.jpg') for i in (1, 4, 5)]


def test_masks_that_cannot_be_evaluated_are_refused_before_the_test(tmp_path):
    file = tmp_path / 'a.json'
    masks = {1: [[0, 0, 1, 1]], 2: [], 3: [[0, 0, 1, 1, 2, 0]], 4: dict(size=[1, 1], counts='0')}
    file.write_text(json.dumps(dict(annotations=[dict(id=i, segmentation=mask) for i, mask in masks.items()])))
    cfg = Config(dict(test_evaluator=dict(ann_file=str(file), metric=['bbox', 'segm'])))
    with pytest.raises(UsageError, match=rf'{file}: 2 annotation\(s\) have no mask that can be evaluated, by '
                       'id: 1, 2; a mask is a run-length code or polygons of at least three corners'):
        check_masks(cfg, 'test')
    cfg.test_evaluator.metric = 'bbox'
    check_masks(cfg, 'test')


def test_an_image_that_was_left_out_counts_as_missed(tmp_path):
    from mmdet.evaluation import CocoMetric
    file = tmp_path / 'a.json'
    file.write_text('''{"images": [{"id": 0, "width": 90, "height": 90}, {"id": 1, "width": 90, "height": 90}],
        "categories": [{"id": 1, "name": "disk"}], "annotations": [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}]}''')
    metric = CocoMetric(str(file), metric='bbox')
    metric.dataset_meta = dict(classes=('disk',))
    found = dict(bboxes=torch.tensor([[10., 10, 60, 60]]), scores=torch.ones(1), labels=torch.tensor([0]))
    metric.process({}, [dict(img_id=0, ori_shape=(90, 90), pred_instances=found)])
    assert metric.evaluate(1)['coco/bbox_mAP'] == pytest.approx(0.505, abs=0.01)


def test_what_becomes_of_other_kinds_of_pixels(tmp_path):
    def loaded(name, pixels):
        assert cv2.imwrite(str(tmp_path / name), pixels)
        return LoadOrSkip([LOAD])(dict(img_path=str(tmp_path / name)))['img']
    wide = np.random.default_rng(0).integers(0, 65536, SCENE.shape, np.uint16)
    np.testing.assert_array_equal(loaded('wide.png', wide), wide >> 8)
    np.testing.assert_array_equal(loaded('wide-grey.png', wide[..., 0]), np.stack([wide[..., 0] >> 8] * 3, -1))
    np.testing.assert_array_equal(loaded('grey.png', SCENE[..., 0]), np.stack([SCENE[..., 0]] * 3, -1))
    np.testing.assert_array_equal(loaded('rgba.png', np.concatenate([SCENE, SCENE[..., :1]], -1)), SCENE)


def test_damage_that_no_end_shows_is_found_where_it_is_asked_for(tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(SCENE).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    assert has_end(bytes(content))
    assert glance(path) is None
    with pytest.raises(SyntaxError, match='broken PNG file'):
        decode(path)
