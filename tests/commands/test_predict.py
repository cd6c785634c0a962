"""predict.py, in this process, on generated scenes with untrained models."""
import json
import pickle
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import mmattn
from mmattn.engine.building import load_model
from tests.conftest import ROOT, error_line, loader_options

TOOL, TEST = 'tools/predict.py', 'tools/test.py'
DET, SEG = 'configs/demo/mask-rcnn_dat_scenes.py', 'configs/demo/upernet_dat_scenes.py'
FEW = '--cfg-options', 'model.test_cfg.rcnn.max_per_img=12'        # boxes of an image
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=0, validation=4)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Checkpoints of untrained models."""
    folder = tmp_path_factory.mktemp('weights')
    for config in (DET, SEG):
        torch.save(dict(state_dict=load_model(Config.fromfile(ROOT / config), 'random').state_dict()),
                   folder / f'{config[13:16]}.pth')
    return {config: folder / f'{config[13:16]}.pth' for config in (DET, SEG)}


def read(folder):
    return json.loads((folder / 'predictions.json').read_text())


def test_boxes_and_masks_are_those_of_the_test(run_here, data, weights, tmp_path):
    options = loader_options(data)
    annotations = data / 'annotations/instances_validation.json'
    status, _, stderr = run_here(TEST, DET, weights[DET], '--work-dir', tmp_path, '--out', tmp_path / 'test.pkl',
                                 *FEW, *options, f'test_evaluator.ann_file={annotations}')
    assert status == 0, stderr
    status, stdout, _ = run_here(TOOL, data / 'images/validation', DET, weights[DET], '--out-dir', tmp_path / 'out',
                                 '--batch-size', 8, '--score', 0.15, *FEW)
    assert status == 0
    assert stdout.endswith(f'4 image(s) predicted: {tmp_path}/out/predictions.json\n')
    written = COCO(str(tmp_path / 'out/predictions.json'))
    tested = pickle.loads((tmp_path / 'test.pkl').read_bytes())
    assert len(written.imgs) == len(tested) == 4
    for image, expected in zip(written.imgs.values(), tested):
        assert (image['path'], (image['height'], image['width'])) == (expected['img_path'], expected['ori_shape'])
        found, expected = written.imgToAnns[image['id']], expected['pred_instances']
        boxes = np.array([item['bbox'] for item in found])
        boxes[:, 2:] += boxes[:, :2]
        assert len(found) == 12
        assert np.abs(boxes - expected['bboxes'].numpy()).max() < 1e-5
        assert np.abs([item['score'] for item in found] - expected['scores'].numpy()).max() < 1e-5
        assert [item['category_id'] - 1 for item in found] == expected['labels'].tolist()
        assert all(item['category_name'] == written.cats[item['category_id']]['name'] for item in found)
        masks = [coco_mask.decode(parts) for parts in ([item['segmentation'] for item in found], expected['masks'])]
        assert (masks[0] != masks[1]).mean() == 0
        original, picture = (cv2.imread(str(path)) for path in (image['path'],
                                                               tmp_path / 'out/pictures' / image['file_name']))
        assert original.shape == picture.shape
        assert (original != picture).any()
    truth = COCO(str(annotations))
    ids = {image['file_name']: image['id'] for image in truth.imgs.values()}
    results = [{**item, 'image_id': ids[item['file_name']]} for item in read(tmp_path / 'out')['annotations']]
    assert len(truth.loadRes(results).anns) == 48


def test_label_maps_are_those_of_the_test(run_here, data, weights, tmp_path):
    status, _, stderr = run_here(TEST, SEG, weights[SEG], '--work-dir', tmp_path, '--out', tmp_path / 'maps',
                                 '--cfg-options', *loader_options(data))
    assert status == 0, stderr
    status, _, _ = run_here(TOOL, data / 'images/validation', SEG, weights[SEG], '--out-dir', tmp_path / 'out')
    assert status == 0
    written = read(tmp_path / 'out')
    names = [item['name'] for item in written['classes']]
    assert names == ['background', 'disk', 'square', 'triangle', 'star', 'cross']
    assert len(written['images']) == 4
    for image in written['images']:
        labels = Image.open(tmp_path / 'out' / image['label_map'])
        tested = np.asarray(Image.open(tmp_path / 'maps' / image['file_name']))
        assert labels.mode == 'P'
        assert (np.asarray(labels) == tested - 1).all()       # there as in the annotations, which count from 1
        areas = {area['index']: area['pixels'] for area in image['areas']}
        assert areas == dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True))))
        assert sum(area['share'] for area in image['areas']) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('config', [DET, SEG])
def test_a_video_gives_a_video(run_here, data, weights, tmp_path, config):
    frames = [cv2.imread(str(data / f'images/validation/{i % 4:05}.png')) for i in range(10)]
    video = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 12.5, (160, 128))
    for frame in frames:
        video.write(frame)
    video.release()
    status, stdout, _ = run_here(TOOL, tmp_path / 'clip.avi', config, weights[config], '--out-dir', tmp_path,
                                 '--batch-size', 4, *(FEW if config == DET else ()))
    assert status == 0
    assert '10 image(s) predicted' in stdout
    assert [image['frame'] for image in read(tmp_path)['images']] == list(range(10))
    assert {image['file_name'] for image in read(tmp_path)['images']} == {'clip.avi'}
    capture = cv2.VideoCapture(str(tmp_path / 'pictures/clip.mp4'))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    painted = []
    while (got := capture.read())[0]:
        painted.append(got[1])
    assert [frame.shape for frame in painted] == [(128, 160, 3)] * 10
    if config == SEG:
        assert len(list((tmp_path / 'labels/clip.avi').iterdir())) == 10


def test_what_cannot_be_read_is_named_skipped_and_counted(run_here, data, weights, tmp_path):
    folder = tmp_path / 'in'
    shutil.copytree(data / 'images/validation', folder / 'b')
    shutil.copytree(folder / 'b', folder / 'a')
    (folder / 'bad.jpg').write_text('no image')
    options = SEG, weights[SEG], '--out-dir', folder / 'out'
    calls = [run_here(TOOL, folder / 'a', folder / 'b', folder / 'bad.jpg', *options)]
    assert len({image['file_name'] for image in read(folder / 'out')['images']}) == 8
    calls.append(run_here(TOOL, folder, *options))
    for status, stdout, stderr in calls:
        assert status == 0
        assert f'skipped {folder}/bad.jpg: not an image that OpenCV can read' in stderr
        assert stdout.splitlines()[-2:] == [f'8 image(s) predicted: {folder}/out/predictions.json',
                                            'skipped 1 image(s) that cannot be loaded: bad.jpg']
    assert len(list((folder / 'out/pictures').rglob('*.png'))) == 16        # a/00000.png and its like in the second run


def test_the_function_does_what_the_command_does(run_here, data, weights, tmp_path):
    inputs = f'{data}/images/*/0000[01].png'
    status, _, _ = run_here(TOOL, inputs, SEG, weights[SEG], '--out-dir', tmp_path / 'a', '--attention', '--device',
                            'cpu')
    assert status == 0
    outcome = mmattn.predict(inputs, ROOT / SEG, weights[SEG], out_dir=tmp_path / 'b', pictures=False)
    assert (outcome.folder, outcome.images, outcome.skipped) == (tmp_path / 'b', 2, ())
    assert (tmp_path / 'a/predictions.json').read_bytes() == (tmp_path / 'b/predictions.json').read_bytes()
    assert not (tmp_path / 'b/pictures').exists()
    attention = sorted((tmp_path / 'a/attention').rglob('*.png'))
    assert [path.name for path in attention] == ['00000.png', '00001.png']
    assert all(cv2.imread(str(path)).std() > 10 for path in attention)


@pytest.mark.parametrize(('arguments', 'message'), [
    (('/none.png', DET, 'random'), 'error: input not found: /none.png'),
    (('EMPTY', DET, 'random'), r'error: /\S* has no images or videos; known by .*'),
    (('IMAGE', '/none.py', 'random'), r'error: config not found: /none\.py.*'),
    ((DET, 'WEIGHTS', 'IMAGE'), r'error: \S*weights\.pth cannot be read: .*'),     # in the order of `mmattn test`
    (('IMAGE', DET, '/none.pth'), 'error: checkpoint not found: /none.pth'),
    (('IMAGE', DET, 'random', '--batch-size', '0'), 'error: batch_size=0 must be at least 1, a whole number'),
    (('IMAGE', DET, 'random', '--device', 'toaster'), "error: device='toaster' cannot be used here: .*"),
    (('IMAGE', DET, 'random', '--out-dir', 'FILE'), r'error: out_dir /\S* cannot be written: .*'),
    (('FILE', SEG, 'random', '--out-dir', 'OUT'),
     r'error: none of 1 inputs can be read, the first: \S*file\.png: not an image that OpenCV can read'),
    (('TAKEN', DET, 'random', '--out-dir', 'OUT'),
     r'error: \S*pictures/a\.png is an input and might be overwritten; take another folder for results than \S*out'),
    (('IMAGE', DET, 'random', '--attention', '--out-dir', 'OUT', '--cfg-options', 'model.backbone._delete_=True',
      'model.backbone.type=ResNet', 'model.backbone.depth=18', 'model.neck.in_channels=[64,128,256,512]'),
     r'error: \S*: attention cannot be drawn: .*matches no attention layer of MaskRCNN; it has none of mmattn'),
])
def test_wrong_uses_end_in_one_line(run_here, data, tmp_path, arguments, message):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file.png').write_text('no image')
    (tmp_path / 'out/pictures').mkdir(parents=True)
    torch.save({}, tmp_path / 'weights.pth')
    image = data / 'images/validation/00000.png'
    shutil.copy(image, tmp_path / 'out/pictures/a.png')
    known = dict(WEIGHTS=tmp_path / 'weights.pth', EMPTY=tmp_path / 'empty', FILE=tmp_path / 'file.png',
                 OUT=tmp_path / 'out', IMAGE=image, TAKEN=tmp_path / 'out/pictures')
    status, _, stderr = run_here(TOOL, *(known.get(argument, argument) for argument in arguments))
    assert re.fullmatch(message, error_line(status, stderr))
    assert cv2.imread(str(tmp_path / 'out/pictures/a.png')) is not None
