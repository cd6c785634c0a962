"""Commands with a classifier of mmpretrain, on a few generated shapes."""
import json
import pickle
import re

import cv2
import pytest
import torch

from mmattn.datasets import shapes
from mmattn.datasets.scenes import CLASSES
from tests.conftest import needs_mmpretrain

pytestmark = needs_mmpretrain
CONFIG = 'configs/demo/classifier_dat_shapes.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes')
    shapes.write(folder, {'train': 20, 'val': 10})
    return folder


def options(data):
    """Options that point the config at a small data set."""
    return ['--cfg-options', *(f'{split}_dataloader.{key}' for split in ('train', 'val', 'test') for key in (
        f'dataset.data_root={data}', 'batch_size=4', 'num_workers=0', 'persistent_workers=False'))]


def test_train_test_and_predict(run, run_here, data, tmp_path):
    work = tmp_path / 'work'
    done = run('tools/train.py', CONFIG, '--work-dir', work, *options(data), 'train_cfg.max_epochs=1',
               'train_cfg.val_interval=1')
    assert 'effective batch: 1 process(es) x 4 image(s)' in done.stdout
    checkpoint = (work / 'last_checkpoint').read_text()
    status, out, err = run_here('tools/test.py', CONFIG, checkpoint, '--work-dir', work, '--out', tmp_path / 'out.pkl',
                                '--show-dir', tmp_path / 'pictures', *options(data))
    assert not status, err
    accuracy = float(re.search(r'^accuracy/top1 ([0-9.]+)$', out, re.MULTILINE)[1])
    found = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    right = [int(one['pred_label']) == int(one['gt_label']) for one in found]
    assert (len(right), accuracy) == (10, pytest.approx(10 * sum(right)))
    assert len(list((tmp_path / 'pictures').glob('*.png'))) == 10
    status, _, err = run_here('tools/predict.py', data / 'val', CONFIG, checkpoint, '--out-dir', tmp_path / 'found')
    assert not status, err
    content = json.loads((tmp_path / 'found/predictions.json').read_text())
    assert content['classes'] == sorted(CLASSES)
    by_name = {image['path']: image for image in content['images']}
    assert len(by_name) == 10
    for one in found:
        image = by_name[one['img_path']]
        assert image['class_name'] == image['top'][0]['name'] == content['classes'][int(one['pred_label'])]
        assert [top['score'] for top in image['top']] == pytest.approx(
            sorted(one['pred_score'].tolist(), reverse=True), abs=1e-5)
    painted = cv2.imread(str(tmp_path / 'found/pictures/disk/00000.png'))
    assert (painted != cv2.imread(str(data / 'val/disk/00000.png'))).any()


def test_check_data_counts_and_finds(run_here, data, tmp_path):
    status, out, _ = run_here('tools/check_data.py', CONFIG, '--out', tmp_path / 'batch.png', *options(data))
    assert not status
    assert 'train: 20 images, 5 classes\ntrain: from 4 (cross) to 4 (cross) images of a class\n' in out
    assert '00007.png: image (3, 80, 80) uint8, label ' in out or 'label' in out
    assert cv2.imread(str(tmp_path / 'batch.png')).shape == (80, 4 * 80, 3)
    shapes.write(tmp_path / 'faulty', {'train': 5, 'val': 5})
    (tmp_path / 'faulty/train/star/00003.png').write_bytes(b'')
    (tmp_path / 'faulty/val/disk/00000.png').unlink()
    (tmp_path / 'faulty/val/disk/0.png').write_bytes((data / 'val/star/00003.png').read_bytes()[:500])
    status, out, _ = run_here('tools/check_data.py', CONFIG, '--out', tmp_path / 'batch.png',
                              *options(tmp_path / 'faulty'), 'model.head.num_classes=7',
                              'data_preprocessor.num_classes=6')
    assert status == 1
    assert ('problem: model.head.num_classes=7, data_preprocessor.num_classes=6: the data set has 5 classes, set 5'
            in out)
    assert re.search(r'problem: train: 1 image\(s\) of 0 bytes: .*star/00003.png', out)
    assert re.search(r'problem: val: 1 image\(s\) damaged: .*disk/0.png', out)


def test_what_is_wrong_is_one_line(one_line, data, tmp_path):
    missing = one_line('tools/train.py', CONFIG, '--work-dir', tmp_path, *options(tmp_path / 'none'))
    assert f'data not found: {tmp_path}/none/train (train_dataloader.dataset.data_prefix); put the data' in missing
    classes = one_line('tools/train.py', CONFIG, '--work-dir', tmp_path, *options(data), 'model.head.num_classes=7')
    assert classes == 'error: model.head.num_classes=7: the data set has 5 classes, set 5'
    torch.save(dict(state_dict={}), tmp_path / 'empty.pth')
    out = one_line('tools/test.py', CONFIG, tmp_path / 'empty.pth', '--work-dir', tmp_path, '--out', tmp_path / 'x',
                   *options(data))
    assert out.endswith('scores of classes go to one file, name it .pkl or .pickle')
    for tool, verb in (('visualize', 'drawn'), ('predict', 'attention can be drawn of detectors and segmentors')):
        line = one_line(f'tools/{tool}.py', data / 'val/disk/00000.png', CONFIG, 'random', '--out-dir',
                        tmp_path / 'drawn', *(['--attention'] if tool == 'predict' else []))
        assert verb in line
    absent = one_line('tools/train.py', 'configs/imagenet/dat-t_8xb128_in1k.py', '--work-dir', tmp_path)
    assert 'data/imagenet/train (train_dataloader.dataset.split); put the data there, link it, or change' in absent


def test_flops_of_a_classifier(run_here):
    status, out, _ = run_here('tools/get_flops.py', 'biformer-t_8xb128_in1k')
    assert not status
    assert '1 x 3 x 224 x 224' in out
    assert re.search(r'\| total \| 13.14 \| 2.2 \|', out)


def test_shapes_are_the_same_everywhere(data):
    image, label = shapes.single('val', 3)
    assert CLASSES[label] == 'star'
    assert (cv2.imread(str(data / 'val/star/00003.png')) == image).all()
