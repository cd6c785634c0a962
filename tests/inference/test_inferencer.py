"""The Inferencer, with untrained models on generated scenes."""
from dataclasses import FrozenInstanceError

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import mmattn
from mmattn.errors import ArgumentError, UsageError
from mmattn.inference import Detections, Inferencer, Segmentation, inferencer
from tests.conftest import ROOT

DET, SEG = ROOT / 'configs/demo/mask-rcnn_dat_scenes.py', ROOT / 'configs/demo/upernet_dat_scenes.py'
FEW = {'model.test_cfg.rcnn.max_per_img': 12}        # boxes of an image
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=0, validation=5)


@pytest.fixture(scope='module')
def detector():
    return mmattn.Inferencer(DET, 'random', device='cpu', batch_size=1, options=FEW)


@pytest.fixture(scope='module')
def segmentor():
    return mmattn.Inferencer(Config.fromfile(SEG), 'random')


def paths(data):
    return sorted((data / 'images/validation').iterdir())


def same(one, other, tolerance=0.):
    if isinstance(one, Segmentation):
        return (one.label_map == other.label_map).all()
    return len(one.boxes) == len(other.boxes) and all(np.abs(a - b).max(initial=0) <= tolerance for a, b in (
        (one.boxes, other.boxes), (one.scores, other.scores), (one.labels, other.labels), (one.masks ^ other.masks, 0)))


def test_a_detector_gives_boxes_the_surest_first(detector, data):
    found, = detector(paths(data)[0])
    assert isinstance(found, Detections)
    assert (found.name, found.path, found.frame) == ('00000.png', str(paths(data)[0]), None)
    assert found.size == (128, 160)
    count = len(found.boxes)
    assert count > 10
    assert found.boxes.shape == (count, 4)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.masks.shape == (count, 128, 160)
    assert found.masks.dtype == bool
    assert (np.diff(found.scores) <= 0).all()
    assert found.classes == detector.classes == ('disk', 'square', 'triangle', 'star', 'cross')
    assert found.names == [detector.classes[label] for label in found.labels]
    middle = float(np.median(found.scores))
    assert len(found.above(middle).boxes) == len(found.above(middle).masks) == (found.scores >= middle).sum() < count
    with pytest.raises(FrozenInstanceError):
        found.boxes = None


def test_a_segmentor_gives_label_maps(segmentor, data):
    found, = segmentor([paths(data)[0]])
    assert isinstance(found, Segmentation)
    assert segmentor.library == 'mmseg'
    assert segmentor.name == 'upernet_dat_scenes'
    assert found.label_map.shape == found.size == (128, 160)
    assert found.label_map.dtype == np.uint8
    assert found.areas.tolist() == [(found.label_map == i).sum() for i in range(6)]
    assert segmentor.palette[1] == (230, 60, 60)


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_an_array_gives_what_its_file_gives(name, data, request):
    model = request.getfixturevalue(name)
    array = cv2.imread(str(paths(data)[0]))
    before = array.copy()
    one, other = model([paths(data)[0], array])
    assert (other.name, other.path) == ('00001.png', None)
    assert same(one, other)
    assert (array == before).all()


def test_the_size_of_a_batch_changes_nothing_whatever_the_sizes_of_images(detector, data):
    images = [cv2.imread(str(path)) for path in paths(data)]
    images[1:1] = [images[0][:70], images[0][:, :90]]
    alone = detector(images)
    detector.batch_size = 3
    try:
        together = detector(images)
    finally:
        detector.batch_size = 1
    assert len(alone) == len(together) == 7
    assert [found.size for found in together] == [image.shape[:2] for image in images]
    assert all(same(one, other, 1e-4) for one, other in zip(alone, together))


def test_a_batch_is_as_large_as_in_the_tests_unless_told_otherwise(detector, segmentor):
    alone = segmentor.cfg.test_dataloader.batch_size
    assert (detector.batch_size, segmentor.batch_size, alone) == (1, 1, 1)
    assert mmattn.Inferencer(DET, 'random', options=FEW).batch_size == 8


def test_frames_are_read_when_they_are_asked_for(detector, monkeypatch, tmp_path):
    read = []

    def frames(path):
        for i in range(10):
            read.append(i)
            yield np.zeros((32, 32, 3), np.uint8)
    monkeypatch.setattr(inferencer, 'read_frames', frames)
    (tmp_path / 'clip.mp4').touch()
    stream = detector.stream(tmp_path / 'clip.mp4')
    assert read == []
    assert next(stream).frame == 0
    assert len(read) <= 2       # the one that ends a batch
    assert [found.frame for found in stream] == list(range(1, 10))


def strange(image, path):
    """Files of an image that is not plain."""
    picture = Image.fromarray(image[..., ::-1])
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path / 'turned.jpg', exif=exif)
    picture.convert('CMYK').save(path / 'cmyk.jpg')
    picture.convert('P').save(path / 'palette.png')
    picture.save(path / 'a.tif')
    for name, content in dict(alpha=np.dstack([image, image[..., 0]]), grey=image[..., 0],
                              deep=image.astype(np.uint16) * 257, one=image[:1, :1], row=image[:1],
                              column=image[:, :1]).items():
        cv2.imwrite(str(path / f'{name}.png'), content)


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_predictions_are_for_images_as_opencv_reads_them(name, data, tmp_path, request):
    model = request.getfixturevalue(name)
    strange(cv2.imread(str(paths(data)[0])), tmp_path)
    found = model(tmp_path)
    assert len(found) == 10
    for one in found:
        image = cv2.imread(one.path, cv2.IMREAD_COLOR)
        assert one.size == image.shape[:2]
        assert same(one, model(image)[0]), one.name
    assert {one.name: one.size for one in found}['turned.jpg'] == (160, 128)


def test_what_cannot_be_read_is_refused_or_skipped(detector, data, tmp_path):
    good = paths(data)[0]
    for name, content in dict(text=b'no', empty=b'', cut=good.read_bytes()[:2000]).items():
        (tmp_path / f'{name}.png').write_bytes(content)
    cv2.imwrite(str(tmp_path / 'thin.png'), np.zeros((1, 1000, 3), np.uint8))
    (tmp_path / 'clip.mp4').write_text('no')
    skipped = {}
    found = list(detector.stream([tmp_path, good], skip=lambda source, why: skipped.update({source.name: why})))
    assert [one.path for one in found] == [str(good)]
    assert list(skipped) == ['clip.mp4', 'cut.png', 'empty.png', 'text.png', 'thin.png']
    assert skipped['clip.mp4'] == 'not a video that OpenCV can read'
    assert skipped['empty.png'] == 'ValueError: 0 bytes'
    assert skipped['text.png'] == 'not an image that OpenCV can read'
    assert 'runcated' in skipped['cut.png']
    assert 'of 1000x1 pixels, which the pipeline of the tests cannot take' in skipped['thin.png']
    with pytest.raises(UsageError, match=rf'^{tmp_path}/text\.png cannot be read: not an image that OpenCV can read$'):
        detector([good, tmp_path / 'text.png'])


def test_a_batch_is_what_the_model_takes(detector, data):
    batch = detector.batch([paths(data)[0], cv2.imread(str(paths(data)[1]))])
    assert [tuple(x.shape) for x in batch['inputs']] == [(3, 128, 160)] * 2
    assert [sample.ori_shape for sample in batch['data_samples']] == [(128, 160)] * 2
    assert not any('gt_instances' in sample and len(sample.gt_instances) for sample in batch['data_samples'])
    assert all('pred_instances' in sample for sample in detector.run(batch))


def test_the_checkpoint_names_the_classes_and_a_number_that_differs_is_told(detector, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(inferencer, 'print_log', lambda text, **options: said.append(text))
    state = dict(state_dict=detector.net.state_dict())
    torch.save({**state, 'meta': dict(dataset_meta=dict(classes=tuple('abcde')))}, tmp_path / 'named.pth')
    assert Inferencer(DET, tmp_path / 'named.pth').classes == tuple('abcde')
    assert said == []
    torch.save({**state, 'meta': dict(CLASSES=tuple('abc'))}, tmp_path / 'old.pth')
    assert Inferencer(DET, tmp_path / 'old.pth').classes == detector.classes
    assert said == ['mask-rcnn_dat_scenes: the model has 5 classes, and the checkpoint names 3; taking names that fit']


@pytest.mark.parametrize(('options', 'error', 'message'), [
    (dict(batch_size=0), ArgumentError, 'batch_size=0 must be at least 1, a whole number'),
    (dict(device='toaster'), ArgumentError, "device='toaster' cannot be used here: "),
    (dict(device='cuda:99'), ArgumentError, "device='cuda:99' cannot be used here: "),
    (dict(options={'default_scope': 'mmagic'}), UsageError,
     'only mmdet, mmseg and mmpretrain configs can be predicted with'),
    (dict(options={'test_dataloader.dataset.pipeline': []}), UsageError,
     'mask-rcnn_dat_scenes: test_dataloader has no pipeline'),
    (dict(options={'test_dataloader.dataset.pipeline.0.type': 'LoadImageFromWebcam'}), UsageError,
     'starts with LoadImageFromWebcam, not with LoadImageFromFile'),
    (dict(options={'test_dataloader.dataset.pipeline.1.type': 'Resise'}), UsageError, 'Resise'),
])
def test_wrong_uses_say_what_is_right(options, error, message):
    with pytest.raises(error, match=message):
        Inferencer(DET, 'random', **options)


def test_a_config_that_is_given_stays_as_it_is():
    cfg = Config.fromfile(DET)
    with pytest.raises(UsageError, match='no pipeline'):
        Inferencer(cfg, 'random', options={'test_dataloader.dataset.pipeline': []})
    assert cfg.test_dataloader.dataset.pipeline
