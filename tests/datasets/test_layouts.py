"""Folders of data: how they are laid out, and what is said of those in no known form."""
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mmattn.datasets.layouts import Split, check_classes, find_layout
from mmattn.errors import UsageError
from tests.conftest import ROOT
from tests.datasets.test_voc import write as write_voc


@pytest.fixture(scope='module')
def scenes(write_scenes):
    """Scenes with annotations as COCO has them and as label maps."""
    return write_scenes(training=3, validation=2)


@pytest.fixture
def data(scenes, tmp_path):
    return shutil.copytree(scenes, tmp_path / 'data')


def test_coco(scenes):
    found = find_layout(scenes, segmentation=False)
    assert found.form == 'coco'
    assert found.splits['train'] == Split('annotations/instances_training.json', 'images/training/', '', 3)
    assert found.splits['val'] == found.splits['test'] == Split(
        'annotations/instances_validation.json', 'images/validation/', '', 2)
    assert set(found.classes) <= {'disk', 'square', 'triangle', 'star', 'cross'}
    assert found.size == (160, 128)
    assert found.with_masks


def test_coco_with_the_files_beside_the_images_and_a_category_without_objects(data):
    for split, folder in (('training', 'train'), ('validation', 'valid')):
        (data / 'images' / split).rename(data / folder)
        content = json.loads((data / f'annotations/instances_{split}.json').read_text())
        content['categories'].insert(0, dict(id=99, name='shapes'))
        for annotation in content['annotations']:
            del annotation['segmentation']
        (data / folder / '_annotations.coco.json').write_text(json.dumps(content))
    shutil.rmtree(data / 'annotations')
    found = find_layout(data, segmentation=False)
    assert found.splits['train'] == Split('train/_annotations.coco.json', 'train/', '', 3)
    assert found.splits['val'].images == 'valid/'
    assert 'shapes' not in found.classes
    assert not found.with_masks


def test_files_of_other_things_are_passed_over(data):
    (data / 'annotations/captions_training.json').write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
    (data / 'annotations/train_settings.json').write_text('[1]')
    assert find_layout(data, segmentation=False).splits['train'].count == 3


def test_label_maps(scenes):
    found = find_layout(scenes, segmentation=True)
    assert found.form == 'maps'
    assert found.splits['train'] == Split('', 'images/training', 'annotations/training', 3)
    assert found.splits['val'] == found.splits['test'] == Split('', 'images/validation', 'annotations/validation', 2)
    assert set(found.values) <= set(range(1, 7))
    assert (found.img_suffix, found.seg_map_suffix, found.size) == ('.png', '.png', (160, 128))


def test_label_maps_with_a_longer_name(data):
    (data / 'annotations').rename(data / 'labels')
    for path in (data / 'labels').rglob('*.png'):
        path.rename(path.with_name(f'{path.stem}_ids.png'))
    found = find_layout(data, segmentation=True)
    assert found.splits['train'].maps == 'labels/training'
    assert found.seg_map_suffix == '_ids.png'


def test_pascal_voc(tmp_path):
    write_voc(tmp_path)
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    for name, numbers in (('train', '0\n1\n'), ('test', '2\n')):
        (tmp_path / f'ImageSets/Main/{name}.txt').write_text(numbers)
    found = find_layout(tmp_path, segmentation=False)
    assert found.form == 'voc'
    assert found.splits['train'] == Split('ImageSets/Main/train.txt', '', '', 2)
    assert found.splits['val'] == found.splits['test'] == Split('ImageSets/Main/test.txt', '', '', 1)
    assert list(found.classes) == sorted(found.classes)
    assert found.size == (160, 128)
    check_classes(found, found.classes[:1])
    with pytest.raises(UsageError, match='--classes dog: the data has no such objects, but '):
        check_classes(found, [found.classes[0], 'dog'])


@pytest.mark.parametrize(('fault', 'segmentation', 'message'), [
    (lambda data: shutil.rmtree(data), False, 'data not found: /'),
    (lambda data: shutil.rmtree(data / 'annotations'), False, 'has not the layout of COCO, a JSON file for each split'),
    (lambda data: shutil.rmtree(data / 'annotations'), True, 'has not the layout of label maps, images/train'),
    (lambda data: (data / 'annotations/instances_validation.json').unlink(), False,
     'has no split called val, only train; the layout is of COCO'),
    (lambda data: shutil.rmtree(data / 'annotations/training'), True, 'has no split called train, only val; the'),
    (lambda data: shutil.copy(data / 'annotations/instances_training.json', data / 'annotations/a_train.json'), False,
     'has two annotation files for train, annotations/a_train.json and annotations/instances_training.json; leave one'),
    (lambda data: (data / 'annotations/instances_training.json').write_text('{'), False, 'cannot be read: '),
    (lambda data: shutil.rmtree(data / 'images'), False, 'has no folder with the images 00000.png and 00002.png that '),
    (lambda data: (data / 'annotations/training/00000.png').unlink(), True, 'training/00000.png has no label map: '),
    (lambda data: Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(data / 'annotations/training/00001.png'), True,
     'annotations/training/00001.png has 3 channels; a label map has one'),
    (lambda data: (data / 'annotations/training/00001.png').write_bytes(b'text'), True, '00001.png cannot be read: '),
])
def test_faults(data, fault, segmentation, message):
    fault(data)
    if message.startswith('has no folder'):      # the label maps have the names of the images
        for split in ('training', 'validation'):
            shutil.rmtree(data / 'annotations' / split)
    with pytest.raises(UsageError) as raised:
        find_layout(data, segmentation)
    assert message in str(raised.value)


def test_a_damaged_xml_file_is_named(tmp_path):
    write_voc(tmp_path)
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    for name in ('train', 'val'):
        (tmp_path / f'ImageSets/Main/{name}.txt').write_text('0\n1\n')
    (tmp_path / 'Annotations/1.xml').write_text('<annotation>')
    with pytest.raises(UsageError, match=r'Annotations/1\.xml cannot be read: '):
        find_layout(tmp_path, segmentation=False)


@pytest.mark.skipif(not (ROOT / 'data/bccd').is_dir(), reason='data/bccd is missing; link the data set there')
def test_bccd():
    found = find_layout(ROOT / 'data/bccd', segmentation=False)
    assert found.form == 'voc'
    assert {split: part.count for split, part in found.splits.items()} == dict(train=205, val=87, test=72)
    assert found.classes == ['Platelets', 'RBC', 'WBC']
    assert found.size == (640, 480)


@pytest.mark.skipif(not (ROOT / 'data/camvid').is_dir(), reason='data/camvid is missing; link the data set there')
def test_camvid():
    found = find_layout(ROOT / 'data/camvid', segmentation=True)
    assert {split: part.count for split, part in found.splits.items()} == dict(train=367, val=101, test=233)
    assert (list(found.values), found.img_suffix, found.size) == (list(range(12)), '.jpg', (240, 180))
