"""analyze_points.py on generated scenes with untrained models."""
import json
import re
import shutil
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmattn.__main__ import main
from mmattn.commands import analyze_points
from mmattn.config import SPLITS
from mmattn.datasets import scenes
from mmattn.datasets.ground_truth import of_instances
from mmattn.engine.building import build_model
from mmattn.errors import UsageError
from mmattn.measuring.points import analyze, names
from tests.conftest import ROOT

DET, SEG = ROOT / 'configs/demo/mask-rcnn_dat_scenes.py', ROOT / 'configs/demo/upernet_dat_scenes.py'
LAYERS = ['backbone.stages.2.blocks.1.attn', 'backbone.stages.3.blocks.0.attn', 'backbone.stages.3.blocks.1.attn']
read = cache(Config.fromfile)


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=1, validation=2)


@pytest.fixture
def cfg(data):
    """A demo config on the small data set, changed."""
    def call(path, options=()):
        cfg = deepcopy(read(path))
        for split in SPLITS:
            cfg[f'{split}_dataloader'].dataset.data_root = f'{data}/'
        cfg.merge_from_dict(dict(options))
        return cfg
    return call


@pytest.fixture
def unmoved(cfg, tmp_path):
    """A checkpoint of the detector whose points do not leave the grid."""
    weights = build_model(cfg(DET)).state_dict()
    for name, value in weights.items():
        if re.search(r'\.attn\.offset\.\d+\.weight', name) and value.shape[0] == 2:
            value.zero_()
    torch.save({'state_dict': weights}, tmp_path / 'unmoved.pth')
    return tmp_path / 'unmoved.pth'


def areas(data, split='validation'):
    """Shares of the pixels of every scene that are of shapes; 0 is unlabelled, 1 background."""
    maps = [np.array(Image.open(path)) for path in sorted((data / 'annotations' / split).glob('*.png'))]
    return [(labels > 1).mean() for labels in maps], [(labels > 1).sum() / (labels > 0).sum() for labels in maps]


def test_a_detector_before_and_after(run, data, unmoved, tmp_path):
    done = run('tools/analyze_points.py', DET, 'random', unmoved, '--out', tmp_path, '--cfg-options',
               f'test_dataloader.dataset.data_root={data}/')
    text = (tmp_path / 'table.md').read_text()
    assert done.stdout == f'{text}\n{tmp_path}/table.md, {tmp_path}/plot.png\n'
    title, blank, head, _, *rows = text.splitlines()
    assert title == 'mask-rcnn_dat_scenes, test: 2 images with ground truth; inside of its masks, %'
    assert blank == ''
    assert head == ('| weights | layer | mask area | uniform grid | points | attention | points − grid | '
                    'attention − grid |')
    rows = [re.split(r' ?\| ?', row)[1:-1] for row in rows]
    assert [row[:2] for row in rows] == [[name, layer] for name in ('random', 'unmoved.pth') for layer in LAYERS]
    assert {row[2] for row in rows} == {f'{100 * np.mean(areas(data)[0]):.1f}'}
    for row, still in zip(rows, rows[3:]):
        assert row[3] == still[3] == still[4] != row[4]
        assert still[6] == '+0.0 ± 0.0'
        assert re.fullmatch(r'[+-]\d+\.\d ± \d+\.\d', row[6])
        assert float(row[7].split()[0]) == pytest.approx(float(row[5]) - float(row[3]), abs=0.11)
    assert Image.open(tmp_path / 'plot.png').size == (1200, 690)


def test_a_segmentor_leaves_out_background_and_ignored_pixels(cfg, data):
    found = analyze(cfg(SEG))
    assert list(found) == ['random']
    assert list(found['random']) == LAYERS
    for shares in found['random'].values():
        assert shares[:, 0] == pytest.approx(areas(data)[1])
        assert ((shares > 0) & (shares < 1)).all()
    some = analyze(cfg(SEG), split='train', background=scenes.CLASSES)
    assert [len(shares) for shares in some['random'].values()] == [1, 1, 1]
    assert some['random'][LAYERS[0]][0, 0] == pytest.approx(1 - areas(data, 'training')[1][0])


def test_masks_of_instances():
    triangle = [0, 0, 4, 0, 0, 4]
    code = dict(size=[6, 8], counts=[36, 12])       # two columns on the right, column by column
    instances = [dict(bbox=[0, 0, 4, 4], mask=[triangle, [1, 1]], ignore_flag=0),
                 dict(bbox=[6, 0, 8, 6], mask=code, ignore_flag=1),
                 dict(bbox=[-3, 4.6, 7.4, 9], ignore_flag=0)]
    mask, ignored = of_instances(dict(height=6, width=8, instances=instances))
    assert mask[:4, 4:].sum() == mask[4].sum() == 0
    assert 6 <= mask[:4].sum() <= 10
    assert mask[5].tolist() == [True] * 7 + [False]
    assert ignored.sum() == 11      # where the box reaches into the crowd, the box wins
    assert not (mask & ignored).any()


def test_long_names_where_short_ones_are_the_same():
    assert names(['a/x.pth', 'b/y.pth']) == {'x.pth': 'a/x.pth', 'y.pth': 'b/y.pth'}
    assert list(names(['a/x.pth', 'b/x.pth', 'a/x.pth'])) == ['a/x.pth', 'b/x.pth']


def test_one_image_has_no_standard_error():
    row = analyze_points.table({'random': {'attn': np.array([[0.2, 0.25, 0.3, np.nan]])}}).splitlines()[-1]
    assert row == '| random | attn | 20.0 | 25.0 | 30.0 | – | +5.0 | – |'


def test_means_leave_out_images_where_nothing_counts():
    shares = np.array([[0.2, 0.2, 0.3, np.nan], [0.4, 0.5, 0.4, 0.5], [0.6, 0.2, 0.5, 0.5]])
    row = analyze_points.table({'random': {'attn': shares}}).splitlines()[-1]
    assert row == '| random | attn | 40.0 | 30.0 | 40.0 | 50.0 | +10.0 ± 11.5 | +15.0 ± 15.0 |'


@pytest.mark.parametrize(('path', 'options', 'arguments', 'message'), [
    (DET, {'default_scope': 'mmpretrain'}, {}, "default_scope='mmpretrain': only mmdet and mmseg configs"),
    (DET, {'val_dataloader': None}, {'split': 'val'}, '--split val: the config has no val_dataloader'),
    (DET, {'test_dataloader.dataset.data_root': 'none/'}, {}, r'data not found: .*none/annotations/instances_valid'),
    (DET, {}, {'checkpoints': ['none.pth']}, r'checkpoint not found: .*none\.pth'),
    (DET, {}, {'checkpoints': [__file__]}, 'is not a PyTorch file'),
    (DET, {'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='none.pth')}, {}, 'checkpoint not found'),
    (DET, {}, {'background': ['disk']}, '--background is for segmentation'),
    (SEG, {}, {'background': ['disk', 'sky']}, '--background sky: no such class; the classes are background, disk, sq'),
    (SEG, {}, {'background': ['background', *scenes.CLASSES]}, r'none of 2 image\(s\) of test has an object'),
    (SEG, {'test_dataloader.dataset.metainfo.classes': [*'abcdef']}, {},
     '--background is needed, no class is called background; the classes are a, b, c, d, e, f'),
    (SEG, {'test_dataloader.dataset.data_prefix': dict(_delete_=True, img_path='images/validation')}, {},
     r'00000\.png has no label map'),
    (SEG, {'test_dataloader.dataset.seg_map_suffix': '.tif'}, {}, r'data not found: .*validation/00000\.tif'),
    (SEG, {'model.test_cfg.mode': 'slide'}, {}, r'into pieces; add --cfg-options model\.test_cfg\.mode=whole'),
])
def test_what_is_wrong_is_said(cfg, path, options, arguments, message):
    with pytest.raises(UsageError, match=message):
        analyze(cfg(path, options), **arguments)


def test_a_model_without_deformable_attention(cfg):
    with pytest.raises(UsageError, match=r'upernet_crossformer_scenes\.py has no DeformableAttention'):
        analyze(cfg(ROOT / 'configs/demo/upernet_crossformer_scenes.py'))


def test_a_checkpoint_of_another_model(cfg, unmoved):
    with pytest.raises(UsageError, match=r'unmoved\.pth is not of this model'):
        analyze(cfg(SEG), [unmoved])


def test_annotations_of_another_size(cfg, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / 'copy')
    path = copy / 'annotations/instances_validation.json'
    coco = json.loads(path.read_text())
    for image in coco['images']:
        image['width'] = 170
    coco['annotations'] = [{**annotation, 'segmentation': None} for annotation in coco['annotations']]
    path.write_text(json.dumps(coco))
    with pytest.raises(UsageError, match=r'00000\.png: the mask is of \(128, 170\) pixels, the image of'):
        analyze(cfg(DET, {'test_dataloader.dataset.data_root': f'{copy}/'}))


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--limit', '-1'], '--limit -1: a number of images, or 0 for all'),
    (['--out', __file__], f'--out {__file__} cannot be written'),
])
def test_wrong_options_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main('analyze-points', [str(DET), *arguments])
    assert stop.value.code == 2
    assert re.fullmatch(f'error: {message}.*\n', capsys.readouterr().err)
