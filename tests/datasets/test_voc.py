"""Checks of data sets in the format of Pascal VOC, on generated scenes and on real images."""
import pytest
from mmengine.config import Config
from PIL import Image

from mmattn.datasets import scenes
from mmattn.datasets.checking import check
from tests.conftest import ROOT

BCCD = ROOT / 'data/bccd'
XML = '''<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>'''
OBJECT = '''<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>
<ymax>{}</ymax></bndbox></object>'''


def write(root, count=3):
    """Scenes as JPEG with XML files, and a list of them."""
    for folder in ('JPEGImages', 'Annotations'):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        pixels, labels, masks = scenes.scene('training', i)
        Image.fromarray(pixels[..., ::-1].copy()).save(root / f'JPEGImages/{i}.jpg')
        objects = []
        for label, mask in zip(labels, masks):
            rows, columns = mask.nonzero()
            box = columns.min() + 1, rows.min() + 1, columns.max() + 2, rows.max() + 2
            objects.append(OBJECT.format(scenes.CLASSES[label], *box))
        (root / f'Annotations/{i}.xml').write_text(XML.format(width=160, height=128, objects=''.join(objects)))
    (root / 'list.txt').write_text(''.join(f'{i}\n' for i in range(count)))


@pytest.fixture
def data(tmp_path):
    write(tmp_path)
    return tmp_path


def config(root, ann_file='list.txt', classes=scenes.CLASSES):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
                dict(type='Resize', scale=(160, 128), keep_ratio=True), dict(type='PackDetInputs')]
    dataset = dict(type='XMLDataset', data_root=f'{root}/', ann_file=ann_file, data_prefix=dict(sub_data_root=''),
                   metainfo=dict(classes=classes), pipeline=pipeline, filter_cfg=dict(filter_empty_gt=False))
    return Config(dict(default_scope='mmdet', train_dataloader=dict(
        batch_size=2, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'))))


def lines(root, **settings):
    return [str(finding) for finding in check(config(root, **settings), root / 'batch.png', ['train'])]


def faults(root, **settings):
    return [line for line in lines(root, **settings) if line.startswith(('problem', 'warning'))]


def test_a_set_without_problems(data):
    found = lines(data)
    assert found[0].startswith('train: 3 images (0 without a box), ')
    assert found[-3] == f'batch: 2 from 3 images, drawn as the model gets them in {data}/batch.png'
    assert not [line for line in found if line.startswith('problem')]
    assert Image.open(data / 'batch.png').size == (320, 128)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_wrong_is_named(data):
    fine = set(faults(data))
    edit(data / 'Annotations/1.xml', '<width>160', '<width>161')
    assert set(faults(data)) - fine == {
        f'problem: train: 1 image(s) not of the size that the XML file says: {data}/JPEGImages/1.jpg '
        '(160x128, not 161x128)'}
    edit(data / 'Annotations/1.xml', '<width>161', '<width>160')
    (data / 'Annotations/2.xml').write_text('<annotation>')
    assert next(line for line in faults(data) if 'XML file(s) that cannot be read' in line).startswith(
        f'problem: train: 1 XML file(s) that cannot be read: {data}/Annotations/2.xml (ParseError: ')
    (data / 'Annotations/2.xml').unlink()
    assert f'problem: train: 1 XML file(s) missing: {data}/Annotations/2.xml' in faults(data)
    (data / 'list.txt').write_text('0\n1\n1\n')
    assert f'problem: train: 1 image(s) that {data}/list.txt lists several times: 1' in faults(data)
    (data / 'list.txt').write_text('\n')
    assert f'problem: train: {data}/list.txt lists no image' in faults(data)


def test_names_and_boxes(data):
    (data / 'list.txt').write_text('0\n')
    (data / 'Annotations/0.xml').write_text(XML.format(width=160, height=128, objects=''.join(
        OBJECT.format(*one) for one in (('disk', 5, 5, 50, 50), ('moon', 1, 1, 9, 9), ('moon', 1, 1, 9, 9),
                                        ('square', 7, 7, 7, 20), ('star', 100, 100, 200, 120)))))
    assert faults(data) == [
        'warning: train: 1 name(s) of objects are no classes, and mmdet drops their boxes, here with how many: '
        'moon (2)',
        'warning: train: 2 class(es) without a box, whose figures will be nan: triangle, cross',
        'warning: train: 1 box(es) less than a pixel wide or high, whose loss is infinite unless filter_cfg leaves '
        'them out by bbox_min_size=1: square in 0.xml',
        'warning: train: 1 box(es) reach out of their image: star in 0.xml']


@pytest.mark.skipif(not BCCD.is_dir(), reason='data/bccd is missing; link the data set there')
def test_real_images(tmp_path):
    found = [str(finding) for finding in check(
        config(BCCD, ann_file='ImageSets/Main/train.txt', classes=('RBC', 'WBC', 'Platelets')),
        tmp_path / 'batch.png', ['train'], limit=5)]
    assert not [line for line in found if line.startswith('problem')], found
