"""Files with predictions."""
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from mmattn.inference import Detections, Segmentation
from mmattn.inference.classes import Classes
from mmattn.inference.media import Source
from mmattn.inference.writing import DetectionWriter, SegmentationWriter, picture_name, write_label_map

KNOWN = Classes(('cat', 'Straße'), ((255, 0, 0), (1, 2, 3)))
HEAD = dict(name='x/a.jpg', path='/in/x/a.jpg', frame=None, size=(4, 6), classes=KNOWN.names)
MASKS = np.zeros((2, 4, 6), bool)
MASKS[0, 1:3, 2:5] = MASKS[1, 3, 0] = True
FOUND = Detections(**HEAD, boxes=np.array([[2, 1, 5, 3], [0, 3, 1.25, 4]], np.float32),
                   scores=np.array([0.9, 0.1], np.float32), labels=np.array([1, 0]), masks=MASKS)


def test_cocos_own_tools_read_the_file(tmp_path, capsys):
    from pycocotools.coco import COCO
    with DetectionWriter(tmp_path, KNOWN) as writer:
        writer.add(FOUND)
        writer.add(Detections(**{**HEAD, 'name': 'clip.mp4', 'frame': 3}, boxes=np.zeros((0, 4), np.float32),
                              scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64)))
    data = COCO(str(tmp_path / 'predictions.json'))
    assert data.imgs[1] == dict(id=1, file_name='x/a.jpg', path='/in/x/a.jpg', height=4, width=6)
    assert data.imgs[2]['frame'] == 3
    assert [data.cats[i]['name'] for i in (1, 2)] == ['cat', 'Straße']
    first, second = data.imgToAnns[1]
    assert data.imgToAnns[2] == []
    assert first['bbox'] == [2, 1, 3, 2]
    assert second['bbox'] == [0, 3, 1.25, 1]
    assert (first['category_id'], first['category_name'], first['score'], first['area']) == (2, 'Straße', 0.9, 6)
    assert first['file_name'] == 'x/a.jpg'
    assert (data.annToMask(first).astype(bool) == MASKS[0]).all()
    results = data.loadRes(json.loads((tmp_path / 'predictions.json').read_text())['annotations'])
    assert len(results.anns) == 2


def test_the_file_is_whole_however_the_program_ends(tmp_path):
    def fail():
        with DetectionWriter(tmp_path, KNOWN) as writer:
            writer.add(FOUND)
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        fail()
    written = json.loads((tmp_path / 'predictions.json').read_text(encoding='utf-8'))
    assert [len(written[key]) for key in ('images', 'annotations', 'categories')] == [1, 2, 2]


def test_label_maps_have_the_colours_of_the_classes_and_areas_are_counted(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    labels[1, 2:5] = 1
    with SegmentationWriter(tmp_path, KNOWN) as writer:
        writer.add(Segmentation(**HEAD, label_map=labels))
        writer.add(Segmentation(**{**HEAD, 'name': 'clip.mp4', 'frame': 3}, label_map=labels * 0))
    written = json.loads((tmp_path / 'predictions.json').read_text(encoding='utf-8'))
    assert written['classes'][1] == dict(index=1, name='Straße', color=[1, 2, 3])
    first, second = written['images']
    assert first['label_map'] == 'labels/x/a.png'
    assert first['areas'] == [dict(index=0, name='cat', pixels=21, share=0.875),
                              dict(index=1, name='Straße', pixels=3, share=0.125)]
    assert second['label_map'] == 'labels/clip.mp4/000003.png'
    picture = Image.open(tmp_path / first['label_map'])
    assert picture.mode == 'P'
    assert (np.asarray(picture) == labels).all()
    assert picture.convert('RGB').getpixel((2, 1)) == (1, 2, 3)


def test_more_than_256_classes_are_written_in_sixteen_bits(tmp_path):
    labels = np.array([[0, 300]], np.uint16)
    write_label_map(tmp_path / 'a.png', labels, KNOWN)
    assert (cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED) == labels).all()


@pytest.mark.parametrize(('name', 'picture'), [
    ('x/a.jpg', 'x/a.jpg'), ('a.PNG', 'a.PNG'), ('a.tif', 'a.png'), ('a', 'a.png'), ('x/clip.avi', 'x/clip.mp4')])
def test_names_of_pictures(tmp_path, name, picture):
    assert picture_name(Source(name, tmp_path / name)) == picture
