import csv
import json
import pickle
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmattn.engine.building import build_model
from tests.conftest import ROOT, loader_options

DET, SEG = ROOT / 'configs/demo/retinanet_biformer_scenes.py', ROOT / 'configs/demo/upernet_dat_scenes.py'
TOOL = 'tools/analyze.py'


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=1, validation=4)


def table(printed):
    """The rows of the table, by class."""
    rows = [line.strip('| ').split(' | ') for line in printed.splitlines() if line.startswith('| ')]
    return {row[0]: row[1:] for row in rows[1:]}


def matrix(folder):
    """Names and counts of the written matrix; that there is a picture."""
    assert Image.open(folder / 'confusion.png').size > (300, 300)
    first, *rows = csv.reader((folder / 'confusion.csv').open())
    assert first[1:] == [row[0] for row in rows]
    return first[1:], np.array([[int(count) for count in row[1:]] for row in rows])


def test_a_segmentor_has_the_iou_of_its_test(run_here, data, tmp_path):
    """The label maps that a test of random weights wrote, and what the test said of them."""
    torch.save(dict(state_dict=build_model(Config.fromfile(SEG)).state_dict()), tmp_path / 'random.pth')
    options = '--cfg-options', *loader_options(data)
    status, said, _ = run_here('tools/test.py', SEG, tmp_path / 'random.pth', '--work-dir', tmp_path,
                               '--out', tmp_path / 'maps', *options)
    assert status == 0
    status, printed, _ = run_here(TOOL, SEG, tmp_path / 'maps', '--out', tmp_path, *options)
    assert status == 0
    mean = float(re.search(r'^mIoU ([\d.]+)$', said, re.MULTILINE)[1])
    assert float(re.search(r'^mIoU ([\d.]+)$', printed, re.MULTILINE)[1]) == pytest.approx(mean, abs=0.011)
    assert '4 image(s) of' in printed
    names, counts = matrix(tmp_path)
    assert names == ['background', 'disk', 'square', 'triangle', 'star', 'cross']
    pixels = sum(np.array(Image.open(path)).size for path in (data / 'annotations/validation').glob('*.png'))
    assert counts.sum() == pixels


def test_a_pickle_of_label_maps(run_here, data, tmp_path):
    """The ground truth, but disks are squares, and one image is missing."""
    samples = []
    for path in sorted((data / 'annotations/validation').glob('*.png'))[1:]:
        labels = np.array(Image.open(path)).astype(np.int64) - 1
        samples.append(dict(img_path=f'{data}/images/validation/{path.name}',
                            pred_sem_seg=dict(data=torch.tensor(np.where(labels == 1, 2, labels))[None])))
    (tmp_path / 'found.pkl').write_bytes(pickle.dumps(samples))
    path = tmp_path / 'found.pkl'
    _, printed, _ = run_here(TOOL, SEG, path, '--out', tmp_path, '--cfg-options', *loader_options(data))
    rows = table(printed)
    assert rows['background'][1:] == ['100.0', '100.0', '100.0', '–']
    assert rows['disk'][1:] == ['0.0', '–', '0.0', 'square 100.0 %']
    assert '1 image(s) of the test data without prediction are left out' in printed


@pytest.fixture
def found(data, tmp_path):
    """The objects as a detector finds them that takes disks for squares."""
    coco = json.loads((data / 'annotations/instances_validation.json').read_text())
    samples = []
    for image in coco['images']:
        objects = [a for a in coco['annotations'] if a['image_id'] == image['id']]
        boxes = torch.tensor([a['bbox'] for a in objects]).float().reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([a['category_id'] - 1 for a in objects]).long()
        samples.append(dict(
            img_id=image['id'], img_path=f'{data}/images/validation/{image["file_name"]}', pred_instances=dict(
                bboxes=boxes, scores=torch.full((len(objects),), 0.9), labels=torch.where(labels == 0, 1, labels))))
    path = tmp_path / 'found.pkl'
    path.write_bytes(pickle.dumps(samples))
    return path, coco


def test_a_detector_that_takes_disks_for_squares(run_here, data, tmp_path, found):
    path, coco = found
    status, printed, _ = run_here(TOOL, DET, path, '--out', tmp_path, '--cfg-options', *loader_options(data))
    assert status == 0
    names, counts = matrix(tmp_path)
    assert names == ['disk', 'square', 'triangle', 'star', 'cross', '(nothing)']
    objects = np.bincount([a['category_id'] - 1 for a in coco['annotations']], minlength=5)
    assert objects[0] > 0
    expected = np.diag([*objects, 0])
    expected[0, 0], expected[0, 1] = 0, objects[0]
    assert (counts == expected).all()
    assert table(printed)['disk'] == [str(objects[0]), '0.0', '–', 'square 100.0 %']
    _, printed, _ = run_here(TOOL, DET, path, '--score', 0.95, '--out', tmp_path, '--cfg-options',
                             *loader_options(data))
    assert table(printed)['disk'][-1] == '(nothing) 100.0 %'


def test_wrong_uses_are_one_line(one_line, data, tmp_path, found):
    path, _ = found
    (tmp_path / 'text.pkl').write_text('no pickle')
    (tmp_path / 'other.pkl').write_bytes(pickle.dumps([dict(img_path='/elsewhere/1.png', pred_instances={})]))
    (tmp_path / 'list.pkl').write_bytes(pickle.dumps([1, 2]))
    options = '--cfg-options', *loader_options(data)
    for config, args, message in (
            (DET, (tmp_path / 'none.pkl',), f'predictions not found: {tmp_path}/none.pkl'),
            (DET, (tmp_path / 'text.pkl',), 'holds no predictions of a test of this config'),
            (DET, (tmp_path / 'list.pkl',), 'holds no predictions of a test of this config'),
            (SEG, (path,), "them (KeyError: 'pred_sem_seg')"),
            (DET, (tmp_path / 'other.pkl',), 'predicts for /elsewhere/1.png, which is not in the test data'),
            (DET, (tmp_path,), 'is a folder; those of a detector are one file'),
            (SEG, (tmp_path,), 'has no prediction for an image of the test data'),
            (DET, (path, '--iou', 50), '--iou 50.0: must be from 0 to 1')):
        assert message in one_line(TOOL, config, *args, *options)
