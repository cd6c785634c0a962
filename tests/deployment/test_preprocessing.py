"""Images are prepared by numpy and OpenCV as the libraries' pipelines and data preprocessors do it."""
import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
from mmengine.config import ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, DefaultScope

from mmattn.deployment.description import Padding, Preprocessing, Resize
from mmattn.deployment.preprocessing import as_tested, default_size, with_fixed_size
from mmattn.deployment.runtime import prepared
from mmattn.errors import UsageError

NORMAL = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
DETECTION = dict(type='DetDataPreprocessor', pad_size_divisor=32, **NORMAL)
RESIZE = dict(type='Resize', scale=(160, 96), keep_ratio=True)


def config(steps, scope='mmdet'):
    pack = dict(type='PackDetInputs', meta_keys=()) if scope == 'mmdet' else dict(type='PackSegInputs', meta_keys=())
    pipeline = [dict(type='LoadImageFromFile'), *steps, dict(type='LoadAnnotations'), pack]
    return ConfigDict(default_scope=scope, test_dataloader=dict(dataset=dict(type='Any', pipeline=pipeline)))


def preprocessor(settings, scope='mmdet'):
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(settings)


CASES = dict(
    retinanet=([RESIZE], DETECTION, 'mmdet'),
    rtmdet=([dict(type='Resize', scale=(128, 128), keep_ratio=True),
             dict(type='Pad', size=(128, 128), pad_val=dict(img=(114, 100, 90)))],
            dict(DETECTION, pad_size_divisor=1, bgr_to_rgb=False), 'mmdet'),
    yolox=([dict(type='Resize', scale=(128, 128), keep_ratio=True),
            dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))],
           dict(type='DetDataPreprocessor', pad_size_divisor=32), 'mmdet'),
    divisor=([RESIZE, dict(type='Pad', size_divisor=24)], dict(DETECTION, pad_value=7), 'mmdet'),
    stretched=([dict(type='Resize', scale=(70, 50), keep_ratio=False)], DETECTION, 'mmdet'),
    segmentation=([dict(type='Resize', scale=(200, 64), keep_ratio=True)],
                  dict(type='SegDataPreProcessor', size=(64, 64), **NORMAL), 'mmseg'),
    padded_segmentation=([], dict(type='SegDataPreProcessor', size=(64, 64), pad_val=3, test_cfg=dict(size_divisor=32),
                                  **NORMAL), 'mmseg'))


@pytest.mark.parametrize('size', [(60, 90), (90, 61), (33, 200)])
@pytest.mark.parametrize('name', CASES)
def test_a_free_size_is_prepared_as_in_tests(name, size):
    steps, settings, scope = CASES[name]
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    library = preprocessor(settings, scope)
    with DefaultScope.overwrite_default_scope(scope):
        pipeline = Compose([*steps, config(steps, scope).test_dataloader.dataset.pipeline[-1]])
        data = pipeline(dict(img=image, img_shape=size, ori_shape=size))
        wanted = library(pseudo_collate([data]), False)['inputs']
    found = prepared(image, as_tested(config(steps, scope), library))
    assert found.array.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(found.array), wanted, rtol=1e-5, atol=1e-4)
    if not any(step['type'] == 'Pad' for step in steps):
        assert (found.height, found.width) == data['inputs'].shape[1:]


def rules(steps, settings=DETECTION, scope='mmdet'):
    return as_tested(config(steps, scope), preprocessor(settings, scope))


@pytest.mark.parametrize(('name', 'size'), [
    ('retinanet', (96, 160)), ('rtmdet', (128, 128)), ('yolox', (128, 128)), ('stretched', (64, 96)),
    ('segmentation', (64, 64)), ('padded_segmentation', (64, 64))])
def test_the_size_that_nobody_chose(name, size):
    steps, settings, scope = CASES[name]
    assert default_size(rules(steps, settings, scope), preprocessor(settings, scope)) == size


def test_a_pipeline_that_resizes_nothing_needs_a_size():
    with pytest.raises(UsageError, match='--shape HEIGHT WIDTH is needed: the test pipeline leaves images as they are'):
        default_size(rules([]), preprocessor(DETECTION))


def test_a_config_without_a_test_pipeline_is_refused():
    with pytest.raises(UsageError, match='the config has no test_dataloader with a pipeline'):
        as_tested(ConfigDict(test_dataloader=None), preprocessor(DETECTION))


def test_a_fixed_size_keeps_the_scale_where_it_fits():
    fixed = with_fixed_size(rules([RESIZE]), (96, 160))
    assert fixed.resize == Resize(160, 96, keep_ratio=True, turn=False)     # an upright image would not fit
    assert fixed.pad == Padding((0.0, 0.0, 0.0), 96, 160)
    assert with_fixed_size(rules([RESIZE]), (160, 160)).resize.turn
    assert with_fixed_size(rules([RESIZE]), (64, 160)).resize == Resize(160, 64, keep_ratio=True, turn=False)


def test_a_fixed_size_is_filled_with_the_value_of_the_pipeline():
    fixed = with_fixed_size(rules(*CASES['yolox'][:2]), (96, 128))
    assert fixed.pad_pixels == Padding((114.0, 114.0, 114.0), 96, 128)
    image = np.zeros((10, 20, 3), np.uint8)
    array, height, width = prepared(image, fixed)
    assert (array.shape, height, width) == ((1, 3, 96, 128), 64, 128)
    assert (array[:, :, :64] == 0).all()
    assert (array[:, :, 64:] == 114).all()


@pytest.mark.parametrize(('height', 'width', 'turn', 'size'), [
    (480, 640, True, (96, 128)), (640, 480, True, (128, 96)), (640, 480, False, (96, 72)),
    (100, 1000, True, (16, 160))])
def test_sizes_after_resizing(height, width, turn, size):
    assert Resize(160, 96, keep_ratio=True, turn=turn).size(height, width) == size


def test_steps_that_are_not_described_are_named():
    steps = [dict(type='mmdet.CLAHE'), dict(type='Resize', scale_factor=0.5), RESIZE,
             dict(type='Pad', size_divisor=8, padding_mode='reflect')]
    assert as_tested(config(steps), preprocessor(DETECTION)).other_steps == ('CLAHE', 'Resize', 'Pad')


def test_numbers_are_those_of_the_config():
    found = rules([RESIZE])
    assert (found.colour_order, found.mean, found.std) == ('RGB', tuple(NORMAL['mean']), tuple(NORMAL['std']))


def test_rules_come_back_from_json():
    from dataclasses import asdict
    found = rules(*CASES['rtmdet'][:2])
    assert Preprocessing.read(asdict(found)) == found
