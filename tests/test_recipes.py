"""Every published row is built as tests/data/recipes.yml says: optimizer, schedule, backbone, neck, heads and data."""
import json
import math
import re
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import yaml
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch.nn.modules.batchnorm import _BatchNorm

from mmattn import layers
from mmattn.backbones import DeBiFormer
from mmattn.engine.building import build_model
from tests import authors, test_configs
from tests.conftest import ROOT

FACTS = yaml.safe_load((ROOT / 'tests' / 'data' / 'recipes.yml').read_text())
ROWS = {name: dict(recipe['facts'], drop_path_rate=rate) for recipe in FACTS['recipes']
        for name, rate in recipe['rows'].items()}
LETTERS = {layers.LocalAttention: 'L', layers.ShiftedWindowAttention: 'S', layers.DeformableAttention: 'D',
           layers.NeighborhoodAttention: 'N', layers.ShortDistanceAttention: 'S', layers.LongDistanceAttention: 'L',
           layers.BiLevelRoutingAttention: 'R', layers.Attention: 'E'}


def family(name):
    return re.search(r'(dat|crossformer|debiformer|biformer)-', name)[1]


def config(name):
    return test_configs.config(f'{family(name)}/{name}')


def facts_of(name):
    model = re.search(r'(?:dat|crossformer|debiformer|biformer)-(?:pp-)?[tsbl]', name)[0]
    return SimpleNamespace(**FACTS['models'][model]), ROWS[name]


def built(cfg):
    with torch.device('meta'):
        return build_model(cfg)


def test_there_is_a_fact_for_every_row():
    rows = [name for recipe in FACTS['recipes'] for name in recipe['rows']]
    assert len(rows) == len(set(rows)) == 71
    assert set(rows) == {path.stem for folder in ('dat', 'crossformer', 'biformer', 'debiformer')
                         for path in (ROOT / 'configs' / folder).glob('*.py')}


# ---- optimizer

def check_optimizer(name, cfg, model):
    _, facts = facts_of(name)
    wrapper = dict(cfg.optim_wrapper)
    assert wrapper.pop('type') == dict(float16='mmattn.AmpOptimWrapper', float32='OptimWrapper')[facts['precision']]
    assert wrapper.pop('loss_scale', 'dynamic') == 'dynamic'
    assert not wrapper.get('clip_grad')
    assert cfg.auto_scale_lr.base_batch_size == facts['batch']
    assert cfg.train_dataloader.batch_size * (8 if cfg.default_scope == 'mmseg' else 1) <= facts['batch']
    optimizer = build_optim_wrapper(model, dict(wrapper, type='OptimWrapper')).optimizer
    assert type(optimizer) is torch.optim.AdamW
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    norms = {id(p) for module in model.modules() if isinstance(module, (_BatchNorm, torch.nn.LayerNorm))
             for p in module.parameters(recurse=False)}
    theirs = {ours: name for name, (ours, _) in
              authors.layout(model, family(name), convolutions='-pp-' in name).items()}
    for ours, p in model.named_parameters():
        assert groups[id(p)]['lr'] == facts['lr']
        assert groups[id(p)]['betas'] == (0.9, 0.999)
        exempt = any(part in theirs[ours] for part in facts['decay']['names'])
        exempt |= facts['decay']['norms'] and id(p) in norms
        assert groups[id(p)]['weight_decay'] == (0 if exempt else facts['weight_decay']), theirs[ours]


# ---- schedule

def mmcv_1_factor(schedule, iteration, epoch):
    """The rate over its base, as mmcv 1.x computes it before an iteration."""
    if 'steps' in schedule:
        factor = 0.1 ** sum(epoch >= step for step in schedule['steps'])
    elif 'poly' in schedule:
        factor = (1 - iteration / schedule['iterations']) ** schedule['poly']
    else:
        low = schedule['cosine_to']
        factor = low + (1 - low) / 2 * (1 + math.cos(math.pi * iteration / schedule['iterations']))
    if iteration < schedule.get('warmup', 0):
        factor *= 1 - (1 - iteration / schedule['warmup']) * (1 - schedule['warmup_ratio'])
    return factor


def check_schedule(schedule, param_scheduler, per_epoch=600):
    """The rates of a config's schedulers are mmcv's, at every iteration."""
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.))
    schedulers = [PARAM_SCHEDULERS.build(part, default_args=dict(optimizer=wrapper)) for part in param_scheduler]
    for iteration in range(schedule.get('iterations') or schedule['epochs'] * per_epoch):
        ours, theirs = wrapper.get_lr()['lr'][0], mmcv_1_factor(schedule, iteration, iteration // per_epoch)
        assert abs(ours - theirs) <= 1e-6 * theirs + 1e-9, (iteration, ours, theirs)
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % per_epoch == 0:
                scheduler.step()


@cache
def check_schedule_once(schedule, param_scheduler):
    """The same for JSON of both, which many rows share."""
    check_schedule(json.loads(schedule), json.loads(param_scheduler))


def check_training(name, cfg):
    schedule = ROWS[name]['schedule']
    check_schedule_once(json.dumps(schedule), json.dumps([part.to_dict() for part in cfg.param_scheduler]))
    key = 'epochs' if 'epochs' in schedule else 'iterations'
    assert cfg.train_cfg.get(dict(epochs='max_epochs', iterations='max_iters')[key]) == schedule[key]


# ---- backbone, neck, heads

def described(backbone):
    """What a backbone is made of, in the words of the facts."""
    if isinstance(backbone, DeBiFormer):
        return described_debiformer(backbone)
    stages = [[block.attn for block in stage.blocks] for stage in backbone.stages]
    facts = SimpleNamespace(
        dims=[stage.blocks[0].norm1.weight.numel() for stage in backbone.stages],
        heads=[stage[0].num_heads for stage in stages],
        blocks=[''.join(LETTERS[type(layer)] for layer in stage) for stage in stages])
    first = backbone.stages[0].blocks[0]
    facts.mlp_ratio, = {block.mlp.fc1.out_features / block.mlp.fc1.in_features
                        for stage in backbone.stages for block in stage.blocks}

    def of(kind, read):
        values = [{read(layer) for layer in stage if isinstance(layer, kind)} for stage in stages]
        return [value for found in values for value in found]

    if LETTERS[type(first.attn)] in 'LN' and hasattr(first, 'lpu'):
        deformable = layers.DeformableAttention
        facts.offset_groups = of(deformable, lambda layer: layer.offset_groups)
        facts.offset_strides = of(deformable, lambda layer: layer.stride)
        facts.offset_kernels = of(deformable, lambda layer: layer.offset[0].kernel_size[0])
        facts.offset_range, = set(of(deformable, lambda layer: layer.offset_range_factor))
        facts.convention, = set(of(deformable, lambda layer: layer.convention))
        assert set(of(deformable, lambda layer: layer.position_bias)) == {'table'}
        if facts.convention == 'dat':
            facts.window, = {layer.window[0] for stage in stages for layer in stage
                             if isinstance(layer, (layers.LocalAttention, layers.ShiftedWindowAttention))}
        else:
            facts.neighborhood, = set(of(layers.NeighborhoodAttention, lambda layer: layer.kernel_size))
    elif isinstance(first.attn, layers.ShortDistanceAttention):
        facts.group_size = of(layers.ShortDistanceAttention, lambda layer: layer.group_size)
        facts.interval = of(layers.LongDistanceAttention, lambda layer: layer.interval)
        facts.far_groups, = set(of(layers.ShortDistanceAttention, lambda layer: layer.far_groups))
        facts.cooled = [i for i, block in enumerate(backbone.stages[2].blocks)
                        if not isinstance(block.cooling, torch.nn.Identity)]
        assert not any(of(layers.LongDistanceAttention, lambda layer: layer.adaptive_interval))
    else:
        routing = layers.BiLevelRoutingAttention
        facts.topk = of(routing, lambda layer: layer.topk)
        facts.windows, = set(of(routing, lambda layer: layer.num_windows))
        facts.lepe_kernel, = set(of((routing, layers.Attention), lambda layer: layer.lepe.kernel_size[0]))
        facts.position_kernel = first.pos_embed.kernel_size[0]
    return facts


def described_debiformer(backbone):
    blocks = [list(stage.blocks) for stage in backbone.stages]
    agents = [block[0].attn2 for block in blocks]
    routing = [block[0].attn1 for block in blocks[:3]]
    for stage, one in zip(blocks, agents):
        found = [layer for block in stage for layer in (block.attn1, block.attn2)
                 if isinstance(layer, layers.DeformableBiLevelRoutingAttention)]
        assert {repr(layer) for layer in found} == {repr(one)}
    return SimpleNamespace(
        dims=[block[0].norm1.weight.numel() for block in blocks],
        heads=[layer.num_heads for layer in agents],
        blocks=[''.join('R' if isinstance(block.attn1, layers.BiLevelRoutingAttention) else 'D' for block in stage)
                for stage in blocks],
        mlp_ratio=[block[0].mlp1.mlp_ratio for block in blocks], topk=[layer.topk for layer in routing],
        lepe_kernel=({layer.lepe.kernel_size[0] for layer in agents}
                     | {layer.lepe.kernel_size[0] for layer in routing}).pop(),
        agent_topk=[layer.topk for layer in agents], offset_groups=[layer.offset_groups for layer in agents],
        offset_strides=[layer.stride for layer in agents],
        offset_kernels=[layer.offset[0].kernel_size[0] for layer in agents],
        agent_mlp_ratio=[layer.mlp.mlp_ratio for layer in agents],
        tables=[(layer.rpe_table.shape[1] + 1) // 2 for layer in agents],
        windows=({layer.num_windows for layer in agents} | {layer.num_windows for layer in routing}).pop())


def check_backbone(name, cfg, model):
    parts, facts = facts_of(name)
    found = vars(described(model.backbone))
    wanted = {**vars(parts), **facts.get('groups', {}), **({'windows': facts['windows']} if 'windows' in facts else {})}
    assert found == {**({'cooled': []} if family(name) == 'crossformer' else {}), **wanted}
    rates = [block.drop_path.rate for stage in model.backbone.stages for block in stage.blocks]
    assert rates == pytest.approx(torch.linspace(0, facts['drop_path_rate'], len(rates)).tolist())


def check_neck_and_heads(name, cfg, detector):
    model, facts = facts_of(name)
    neck = getattr(detector, 'neck', None)
    assert (neck is None) == ('neck' not in facts)
    if neck is not None:
        assert neck.in_channels == (model.dims[1:] if 'retinanet' in name else model.dims)
        assert dict(start_level=neck.start_level, add_extra_convs=neck.add_extra_convs,
                    num_outs=neck.num_outs) == facts['neck']
        assert neck.out_channels == 256
    if 'cascade' in name:
        for head, targets in zip(detector.roi_head.bbox_head, (0.1, 0.05, 0.033)):
            assert (head.num_shared_convs, head.num_shared_fcs, head.fc_out_channels) == (4, 1, 1024)
            assert head.norm_cfg.type == 'SyncBN'
            assert head.reg_decoded_bbox
            assert not head.reg_class_agnostic
            assert (type(head.loss_bbox).__name__, head.loss_bbox.loss_weight) == ('GIoULoss', 10)
            assert head.bbox_coder.stds[0] == targets
    if 'upernet' in name:
        assert detector.decode_head.in_channels == model.dims
        assert (detector.decode_head.channels, detector.decode_head.dropout.p) == (512, 0.1)
        assert detector.auxiliary_head.in_channels == model.dims[2]
        assert (detector.auxiliary_head.channels, detector.auxiliary_head.loss_decode.loss_weight) == (256, 0.4)
    if 'ade20k' in name:
        assert detector.decode_head.num_classes == 150
        assert detector.decode_head.norm_cfg.type == 'SyncBN'
        assert not detector.decode_head.align_corners
        assert cfg.model.test_cfg.mode == 'whole'
    elif 'mask' in name:
        assert detector.test_cfg.rcnn.to_dict() == dict(
            score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5)
        assert detector.train_cfg.rpn_proposal.nms_pre == 2000


# ---- data, tests, checkpoints

def check_images(name, cfg):
    facts = ROWS[name]
    steps = cfg.train_dataloader.dataset.pipeline
    if cfg.default_scope == 'mmdet':
        choice = [step for step in steps if step.type == 'RandomChoice']
        assert bool(choice) == facts['multiscale']
        if choice:
            whole, cropped = choice[0].transforms
            sides = [(1333, side) for side in range(480, 801, 32)]
            assert whole[0].scales == cropped[2].scales == sides
            assert cropped[0].scales == [(1333, 400), (1333, 500), (1333, 600)]
            assert (cropped[1].crop_size, cropped[1].crop_type) == ((384, 600), 'absolute_range')
        else:
            assert [step.scale for step in steps if step.type == 'Resize'] == [(1333, 800)]
        return
    resize, = (step for step in steps if step.type == 'RandomResize')
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0))
    test = facts['test']
    divisors = [step.size_divisor for step in cfg.test_dataloader.dataset.pipeline if step.type == 'ResizeToMultiple']
    assert divisors == [test['multiple_of']] * (test['multiple_of'] > 1)
    parts = cfg.tta_pipeline[1].transforms
    scales, = (part for part in parts if part[0].type == 'Resize')
    flips, = (part for part in parts if part[0].type == 'RandomFlip')
    assert [step.scale for step in scales] == [(int(2048 * r), int(512 * r)) for r in (0.5, 0.75, 1, 1.25, 1.5, 1.75)]
    assert [step.prob for step in flips] == ([0, 1] if test['flip'] else [0])
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == facts['interval']
    assert cfg.default_hooks.checkpoint.get('save_best') == ('mIoU' if facts.get('save_best') else None)
    assert cfg.get('sync_bn') == ('torch' if facts.get('sync_bn') else None)


@pytest.mark.parametrize('name', ROWS)
def test_a_row_is_the_published_one(name):
    cfg = config(name)
    model = built(cfg)
    for check in (check_backbone, check_neck_and_heads, check_optimizer):
        check(name, cfg, model)
    check_training(name, cfg)
    check_images(name, cfg)


# ---- a later edit of a base does not go unnoticed

CASCADE, UPERNET = 'cascade-mask-rcnn_crossformer-s_fpn_ms-3x_coco', 'crossformer-s_upernet_8xb2-160k_ade20k-512x512'
PLUS = 'mask-rcnn_dat-pp-t_fpn_1x_coco'


@pytest.mark.parametrize(('check', 'name', 'change'), [
    (check_backbone, CASCADE, {'model.backbone.group_sizes': 7}),
    (check_backbone, CASCADE, {'model.backbone.far_groups': 'block'}),
    (check_backbone, UPERNET, {'model.backbone.intervals': [8, 4, 2, 2]}),
    (check_backbone, PLUS, {'model.backbone.drop_path_rate': 0.1}),
    (check_optimizer, UPERNET, {'optim_wrapper.paramwise_cfg.custom_keys.cooling.decay_mult': 0.,
                                'optim_wrapper.paramwise_cfg.custom_keys.decode_head.decay_mult': 0.}),
    (check_optimizer, PLUS, {'optim_wrapper.paramwise_cfg.norm_decay_mult': None}),
    (check_optimizer, PLUS, {'optim_wrapper.optimizer.lr': 1e-4}),
    (check_neck_and_heads, PLUS, {'model.neck.add_extra_convs': False}),
    (check_neck_and_heads, UPERNET, {'model.auxiliary_head.channels': 512}),
])
def test_a_changed_recipe_is_noticed(check, name, change):
    cfg = config(name)
    check(name, cfg, built(cfg))
    cfg.merge_from_dict(change)
    with pytest.raises(AssertionError):
        check(name, cfg, built(cfg))


@pytest.mark.parametrize(('scheduler', 'field', 'value'), [
    (0, 'end', 1500), (0, 'start_factor', 1e-3), (1, 'end', 160000), (1, 'begin', 1501), (1, 'power', 0.9)])
def test_a_changed_schedule_is_noticed(scheduler, field, value):
    changed = config(UPERNET).param_scheduler
    changed[scheduler][field] = value
    with pytest.raises(AssertionError):
        check_schedule(ROWS[UPERNET]['schedule'], changed)
