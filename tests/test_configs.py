"""Every config: what its name says, and that it builds and runs."""
import json
import re
from copy import deepcopy
from functools import cache

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper

from mmattn.engine.building import build_model, build_runner
from mmattn.engine.training import choose_precision
from mmattn.registry import MODELS
from tests.conftest import ROOT
from tests.steps import batch, train_once, without_gradient

NAMES = sorted(f'{path.parent.name}/{path.stem}' for folder in ('dat', 'crossformer', 'biformer', 'debiformer')
               for path in (ROOT / 'configs' / folder).glob('*.py'))
CONFIGS = pytest.mark.parametrize('name', NAMES)
DETECTORS = {'retinanet': 'RetinaNet', 'mask-rcnn': 'MaskRCNN', 'cascade-mask-rcnn': 'CascadeRCNN'}
HEADS = {'fpn': 'FPNHead', 'upernet': 'UPerHead'}
TYPES = {'dat': 'DAT', 'dat-pp': 'DATPlusPlus', 'crossformer': 'CrossFormer', 'crossformer-pp': 'CrossFormerPlusPlus',
         'biformer': 'BiFormer', 'debiformer': 'DeBiFormer'}
SIZES = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}


@cache
def parsed(name):
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def config(name):
    return deepcopy(parsed(name))


@CONFIGS
def test_a_config_does_what_its_name_says(name):
    cfg, (folder, stem) = config(name), name.split('/')
    backbone = cfg.model.backbone
    found = re.fullmatch(r'(?P<head>[a-z-]+)_(?P<model>[a-z-]+)-(?P<size>.)_fpn_(ms-)?(?P<epochs>[13])x_coco', stem)
    if found:
        assert cfg.default_scope == 'mmdet'
        assert cfg.model.type == DETECTORS[found['head']]
        assert cfg.train_cfg.max_epochs == 12 * int(found['epochs'])
        multiscale = 'RandomChoice' in str(cfg.train_dataloader.dataset.pipeline)
        assert multiscale or 'ms-3x' not in stem
    else:
        found = re.fullmatch(r'(?P<model>[a-z-]+)-(?P<size>.)_(?P<head>[a-z]+)_8xb(?P<batch>\d)-(?P<kilo>\d+)k_'
                             'ade20k-512x512', stem)
        assert cfg.default_scope == 'mmseg'
        assert cfg.model.decode_head.type == HEADS[found['head']]
        assert cfg.train_cfg.max_iters == 1000 * int(found['kilo'])
        assert 8 * cfg.train_dataloader.batch_size == 8 * int(found['batch']) == cfg.auto_scale_lr.base_batch_size
        assert tuple(cfg.model.data_preprocessor.size) == (512, 512)
    assert backbone.type == f"mmattn.{TYPES[found['model']]}"
    assert folder in found['model']
    assert backbone.arch == SIZES[found['size']]


@pytest.mark.filterwarnings('ignore:topk=')
@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT / 'configs/plugins').glob('*.py')))
def test_an_attention_in_another_detector(name):
    cfg = config(f'plugins/{name}')
    kind, = (kind for kind in ('deformable', 'bi-level-routing', 'cross-scale-neck') if kind in name)
    cfg.model.backbone.pop('init_cfg', None)
    model = build_model(cfg)
    found = {type(module).__name__ for module in model.modules()}
    assert {'deformable': 'DeformableAttention', 'bi-level-routing': 'BiLevelRoutingAttention',
            'cross-scale-neck': 'CrossScaleNeck'}[kind] in found
    outs = model.extract_feat(torch.rand(2, 3, 96, 128))
    sum(out.square().mean() for out in outs).backward()
    for module in model.modules():
        if type(module).__module__.startswith('mmattn.layers'):
            assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.filterwarnings('ignore:topk=')
@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT / 'configs/ablation').glob('*.py')))
def test_ablations_differ_in_attention_alone(name):
    cfg, plain = config(f'ablation/{name}'), config('ablation/shifted-window')
    attention, usual = cfg.model.backbone.pop('attention'), plain.model.backbone.pop('attention')
    assert (attention != usual) == (name != 'shifted-window')
    assert cfg.model.to_dict() == plain.model.to_dict()
    backbone = MODELS.build({**cfg.model.backbone, 'attention': attention}).eval()
    with torch.no_grad():
        outs = backbone(torch.rand(1, 3, 90, 64))
    assert [tuple(x.shape) for x in outs] == [(1, 96, 23, 16), (1, 192, 12, 8), (1, 384, 6, 4), (1, 768, 3, 2)]


@pytest.fixture(scope='module')
def data(write_scenes):
    """Two small images with COCO boxes and masks of five of its classes, and ADE20K labels."""
    names = CocoDataset.METAINFO['classes']
    root = write_scenes(training=2, validation=1)
    for path in (root / 'annotations').glob('*.json'):
        content = json.loads(path.read_text())
        content['categories'] = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
        path.write_text(json.dumps(content))
    return root


def shrink(node):
    """Reduce the image sizes of a pipeline or preprocessor in place."""
    if isinstance(node, dict):
        if 'scale' in node:
            node['scale'] = (96, 64)
        if 'scales' in node:
            node['scales'] = [(96, 64), (80, 72)]
        if 'crop_size' in node:
            node['crop_size'] = (64, 64)
        for value in node.values():
            shrink(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            shrink(value)


OTHERS = sorted(f'{path.parent.name}/{path.stem}' for folder in ('demo', 'plugins', 'ablation')
                for path in (ROOT / 'configs' / folder).glob('*.py')
                if path.stem != 'classifier_dat_shapes')        # tests/commands/test_classifiers.py trains it


@pytest.mark.filterwarnings('ignore:topk=')
@pytest.mark.parametrize('name', [pytest.param(name, marks=[] if name.endswith('scenes') else pytest.mark.slow)
                                  for name in OTHERS])
def test_a_step_leaves_no_parameter_without_gradient(name):
    cfg = config(name)
    model = build_model(cfg)
    MessageHub.get_instance(name).update_info_dict(dict(iter=0, max_iters=1))       # YOLOX asks for it
    train_once(model, batch(cfg.default_scope, 'mask_head' in cfg.model.get('roi_head', {})), cfg.default_scope)
    assert without_gradient(model) == []


@pytest.mark.slow
@CONFIGS
def test_one_training_step_and_one_test_step(name, data, tmp_path, monkeypatch):
    cfg = config(name)
    coco = cfg.default_scope == 'mmdet'
    for split, folder in (('train', 'training'), ('val', 'validation'), ('test', 'validation')):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2 if split == 'train' else 1)
        shrink(loader.dataset.pipeline)
        paths = (dict(data_root=str(data), ann_file=f'annotations/instances_{folder}.json',
                      data_prefix=dict(img=f'images/{folder}')) if coco else
                 dict(data_root=str(data), img_suffix='.png',
                      data_prefix=dict(img_path=f'images/{folder}', seg_map_path=f'annotations/{folder}')))
        loader.dataset.update(paths)
    if coco:
        cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=False, min_size=0)
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(data / 'annotations/instances_validation.json')
        for stage in (cfg.model.test_cfg, cfg.model.test_cfg.get('rcnn', {})):
            if 'score_thr' in stage:        # a model that has learned nothing predicts nothing above the usual one
                stage.score_thr = 0
    else:
        cfg.model.data_preprocessor.size = (64, 64)
    loop = 'mmengine.IterBasedTrainLoop'
    cfg.train_cfg = dict(type=loop, max_iters=1, val_interval=10)
    cfg.param_scheduler = cfg.param_scheduler[:1]
    cfg.log_processor = dict(by_epoch=False)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=-1, save_last=False)
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    choose_precision(cfg, wanted=None)
    runner = build_runner(cfg)
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    monkeypatch.setattr(OptimWrapper, 'zero_grad', lambda self: None)       # so that gradients can be looked at
    runner.train()
    assert without_gradient(runner.model) == []
    changed = {key for key, value in runner.model.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.startswith('backbone.stages.0') for key in changed)
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    metrics = runner.test()
    assert ('coco/bbox_mAP' if coco else 'mIoU') in metrics
