"""Modern heads with our backbones: what a config's name says, how it learns, a step, and two processes."""
import json
import re
from copy import deepcopy
from functools import cache

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch.nn.modules.batchnorm import _BatchNorm

from mmattn.config import read_config
from mmattn.engine.building import build_model
from mmattn.engine.levels import describe_unread
from tests.conftest import ROOT
from tests.steps import batch, predict_once, train_once, without_gradient
from tests.test_configs import SIZES, TYPES

NAMES = sorted(path.stem for path in (ROOT / 'configs/heads').glob('*.py'))
HEADS = {'dino-4scale': ('DINO', 'DINOHead'), 'deformable-detr': ('DeformableDETR', 'DeformableDETRHead'),
         'mask2former': ('Mask2Former', 'Mask2FormerHead'), 'rtmdet-s': ('RTMDet', 'RTMDetSepBNHead'),
         'atss': ('ATSS', 'ATSSHead'), 'segformer': ('EncoderDecoder', 'SegformerHead')}
NORMS = _BatchNorm, torch.nn.LayerNorm, torch.nn.GroupNorm
CONFIGS = pytest.mark.parametrize('name', NAMES)
PAIRS = [name for i, head in enumerate(sorted({re.sub('_(dat|crossformer|biformer)-.', '_*', name) for name in NAMES}))
         for name in NAMES if name == head.replace('*', ('dat-t', 'crossformer-s', 'biformer-s')[i % 3])]


@cache
def parsed(name):
    return read_config(name)


def config(name):
    """A config whose images have any size."""
    cfg = deepcopy(parsed(name))
    settings = cfg.model.data_preprocessor
    settings.pop('batch_augments', None)
    if cfg.default_scope == 'mmseg':
        settings.size = (64, 96)
    return cfg


def on_meta(cfg):
    with torch.device('meta'):
        return build_model(cfg)


def test_every_head_has_three_backbones():
    assert len(NAMES) == 21
    assert len(PAIRS) == 7
    assert {re.search('_(dat-t|crossformer-s|biformer-s)_', name)[1] for name in PAIRS} == {
        'dat-t', 'crossformer-s', 'biformer-s'}


@CONFIGS
def test_a_config_does_what_its_name_says(name):
    cfg = config(name)
    found = re.fullmatch(r'(?P<head>[a-z0-9-]+)_(?P<model>[a-z]+)-(?P<size>.)_(fpn_)?(?P<batch>\d+xb\d+-)?(lsj-)?'
                         r'(?P<length>\d+[xek])_(?P<data>coco|ade20k-512x512)', name)
    assert (cfg.model.backbone.type, cfg.model.backbone.arch) == (
        f"mmattn.{TYPES[found['model']]}", SIZES[found['size']])
    detector, head = HEADS[found['head']]
    segments = found['data'] != 'coco'
    assert cfg.default_scope == ('mmseg' if segments else 'mmdet')
    assert cfg.model.type == ('EncoderDecoder' if segments else detector)
    part, = {'bbox_head', 'panoptic_head', 'decode_head'} & set(cfg.model)
    assert cfg.model[part].type == head
    length = {'1x': 12, '12e': 12, '50e': 50, '300e': 300, '160k': 160000}[found['length']]
    if head == 'Mask2FormerHead' and not segments:
        length = 368750         # 50 epochs, counted in iterations
    assert length in (cfg.train_cfg.get('max_epochs'), cfg.train_cfg.get('max_iters'))
    if found['batch']:
        processes, images = map(int, found['batch'][:-1].split('xb'))
        assert cfg.train_dataloader.batch_size == images
        assert cfg.get('auto_scale_lr', {}).get('base_batch_size', processes * images) in (processes * images, 16)


@pytest.mark.parametrize('name', [pytest.param(name, marks=[] if name in PAIRS else pytest.mark.slow)
                                  for name in NAMES])
def test_all_maps_are_read_norms_and_tables_do_not_decay_and_the_backbone_learns_as_the_head_wants(name):
    cfg = config(name)
    model = on_meta(cfg)
    assert describe_unread(model) == []
    assert model.backbone.out_indices == ((0, 1, 2, 3) if re.match('mask2former|segformer', name) else (1, 2, 3))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    still = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(False)}
    lr, decay = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay
    slow = 0.1 if re.match('dino|deformable|mask2former', name) else 1
    counts = dict(norms=0, tables=0, others=0)
    for key, p in model.backbone.named_parameters():
        kind = 'norms' if id(p) in still else 'tables' if key.endswith('table') else 'others'
        counts[kind] += 1
        assert groups[id(p)]['lr'] == pytest.approx(slow * lr)
        decays = kind == 'others' and not (name.startswith('rtmdet') and key.endswith('bias'))
        assert groups[id(p)]['weight_decay'] == (decay if decays else 0), key
    assert counts['norms'] > 20
    assert (counts['tables'] > 0) == ('_dat-' in name)
    of_heads = {groups[id(p)]['lr'] for key, p in model.named_parameters() if not key.startswith('backbone.')}
    assert max(of_heads) == pytest.approx(lr * (10 if name.startswith('segformer') else 1))


def test_what_a_head_says_of_its_own_parameters_stays():
    for name, part, option, value in (
            ('deformable-detr_dat-t_16xb2-50e_coco', 'sampling_offsets', 'lr', 2e-5),
            ('mask2former_dat-t_8xb2-lsj-50e_coco', 'query_feat', 'weight_decay', 0),
            ('mask2former_dat-t_8xb2-160k_ade20k-512x512', 'level_embed', 'weight_decay', 0)):
        cfg = config(name)
        model = on_meta(cfg)
        groups = {id(p): group for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
                  for p in group['params']}
        found = {groups[id(p)][option] for key, p in model.named_parameters() if part in key}
        assert [*found] == pytest.approx([value])


@pytest.mark.slow
@CONFIGS
def test_a_step_and_a_prediction(name):
    cfg = config(name)
    scope, masks = cfg.default_scope, 'mask2former' in name
    size = (192, 256) if 'dino' in name else (64, 96)       # 900 queries are chosen among as many pixels
    if 'score_thr' in cfg.model.get('test_cfg', {}):
        cfg.model.test_cfg.score_thr = 0                    # a model that has learned nothing predicts nothing above it
    model = build_model(cfg)
    model.init_weights()
    losses = train_once(model, batch(scope, masks, size), scope)
    assert all(torch.as_tensor(value).isfinite().all() for value in losses.values())
    assert without_gradient(model) == []
    samples = predict_once(model, batch(scope, masks, size), scope)
    assert len(samples) == 2
    for sample in samples:
        if scope == 'mmseg':
            assert tuple(sample.pred_sem_seg.data.shape) == (1, *size)
            continue
        found = sample.pred_instances
        assert found.scores.isfinite().all()
        assert found.bboxes.isfinite().all()
        assert not masks or tuple(found.masks.shape[1:]) == size
        assert len(found) or name.startswith('rtmdet')      # whose boxes may start with no extent


@pytest.mark.slow
def test_two_processes_use_every_parameter(run, tmp_path):
    run('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', ROOT / 'tests/two_heads.py', tmp_path,
        *PAIRS)
    said = [json.loads((tmp_path / f'said_{process}.json').read_text()) for process in range(2)]
    assert said[0].keys() == said[1].keys() == set(PAIRS)
    for name in PAIRS:
        (losses, weights), (others, other_weights) = (one[name] for one in said)
        assert losses != others         # each has images of its own
        assert weights == other_weights
