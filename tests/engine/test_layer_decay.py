"""The learning rate of every parameter, by rules written from names alone."""
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmattn.backbones import AttentionPyramid
from mmattn.engine import layer_decay
from mmattn.engine.building import config_errors
from mmattn.errors import ArgumentError, UsageError
from tests.conftest import ROOT
from tests.models import BACKBONES, small

pytestmark = pytest.mark.filterwarnings('ignore:topk=')
LR, WEIGHT_DECAY, RATE = 0.1, 0.05, 0.5
MAKE = {**BACKBONES, 'AttentionPyramid': lambda: AttentionPyramid(
    dict(type='LocalAttention'), (8, 16, 24, 32), depths=(1, 2, 0, 1))}
# Blocks of each stage, and with them the depth of each stage's first block.
BLOCKS = {'DAT': (2, 1, 2, 1), 'DAT++': (2, 2, 2, 2), 'BiFormer': (2, 1, 2, 2), 'CrossFormer': (2, 4, 2, 1),
          'DeBiFormer': (2, 1, 2, 1), 'AttentionPyramid': (1, 2, 0, 1)}
FIRST = {'DAT': (1, 3, 4, 6), 'DAT++': (1, 3, 5, 7), 'BiFormer': (1, 3, 4, 6), 'CrossFormer': (1, 3, 7, 9),
         'DeBiFormer': (1, 3, 4, 6), 'AttentionPyramid': (1, 2, 4, 4)}


class Net(nn.Module):
    """A backbone between parts that are none."""

    def __init__(self, backbone):
        super().__init__()
        self.before = nn.Linear(2, 2)
        self.backbone = backbone
        self.head = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))


def build(model, *, optimizer=(), **paramwise):
    return build_optim_wrapper(model, dict(
        constructor='mmattn.LayerDecayOptimizerConstructor', paramwise_cfg=dict(dict(decay_rate=RATE), **paramwise),
        optimizer={**dict(type='AdamW', lr=LR, weight_decay=WEIGHT_DECAY), **dict(optimizer)})).optimizer


def groups(model, optimizer):
    """The options of every parameter by its name, each in a group of its own."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(group['params'][0])]: group for group in optimizer.param_groups}


def below(family, name, by_stage):
    """By how many steps a parameter lies below the heads."""
    blocks = (1, 1, 1, 1) if by_stage else BLOCKS[family]
    first = (1, 2, 3, 4) if by_stage else FIRST[family]
    top = sum(blocks) + 1
    if name.startswith('backbone.stem.'):
        return top
    found = re.match(r'backbone\.stages\.(\d)\.blocks\.(\d)\.', name)
    if found:
        return top - first[int(found[1])] - (0 if by_stage else int(found[2]))
    found = re.match(r'backbone\.downsamples\.(\d)\.', name)
    if found:
        return top - first[int(found[1]) + 1]
    assert name.startswith(('backbone.norms.', 'before.', 'head.')), name
    return 0


@pytest.mark.parametrize('by_stage', [False, True], ids=['layer_wise', 'stage_wise'])
@pytest.mark.parametrize('family', MAKE)
def test_every_parameter_has_the_rate_of_its_depth(family, by_stage):
    model = Net(MAKE[family]())
    optimizer = build(model, decay_type='stage_wise' if by_stage else 'layer_wise')
    found = groups(model, optimizer)
    assert len(found) == len(optimizer.param_groups) == len(list(model.parameters()))
    for name, group in found.items():
        assert group['lr'] == pytest.approx(LR * RATE ** below(family, name, by_stage)), name
        print(f'{group["lr"]:.3g} {name}')
    blocks = 4 if by_stage else sum(BLOCKS[family])
    assert len({group['lr'] for group in found.values()}) == blocks + 2
    # in the order in which a map passes through
    parts = ['stem.', *(part for i in range(4) for part in (f'downsamples.{i - 1}.', f'stages.{i}.')), 'norms.']
    order = sorted(found, key=lambda name: next(
        (i for i, part in enumerate(parts) if name.startswith(f'backbone.{part}')), len(parts)))
    rates = [found[name]['lr'] for name in order]
    assert rates == sorted(rates)


def test_stages_that_are_not_built_do_not_count():
    model = Net(small(out_indices=(1,)))
    optimizer = build(model, num_layers=3)
    found = groups(model, optimizer)
    assert found['backbone.stem.0.weight']['lr'] == pytest.approx(LR * RATE ** 4)
    assert found['backbone.stages.1.blocks.0.norm1.weight']['lr'] == pytest.approx(LR * RATE)


def test_factors_of_mmengines_constructor_are_multiplied_and_weights_decay_as_without():
    model = Net(small(frozen_stages=1))
    options = dict(norm_decay_mult=0., bias_decay_mult=0.5, flat_decay_mult=0.1, custom_keys={
        'stages.2': dict(lr_mult=0.2, decay_mult=2.), 'rpe_table': dict(decay_mult=0.), 'head': dict(lr_mult=10.)})
    found = groups(model, build(model, **options))
    plain = build_optim_wrapper(model, dict(
        paramwise_cfg=options, optimizer=dict(type='AdamW', lr=LR, weight_decay=WEIGHT_DECAY))).optimizer
    usual = groups(model, plain)
    assert found.keys() == usual.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith(('backbone.stem', 'backbone.stages.0')) for name in found)       # frozen
    for name, group in found.items():
        assert group['lr'] == pytest.approx(usual[name]['lr'] * RATE ** below('DAT', name, False)), name
        assert group['weight_decay'] == usual[name]['weight_decay'], name
    assert found['head.0.weight']['lr'] == pytest.approx(10 * LR)
    assert found['backbone.stages.2.blocks.0.attn.proj_qkv.weight']['weight_decay'] == pytest.approx(2 * WEIGHT_DECAY)


def test_a_slower_backbone():
    """Alone, where norms keep their rule of weight decay, which a key of MMEngine takes from them; and with decay."""
    model = Net(small())

    def built(**paramwise):
        return groups(model, build_optim_wrapper(model, dict(
            constructor='mmattn.LayerDecayOptimizerConstructor', paramwise_cfg=dict(norm_decay_mult=0., **paramwise),
            optimizer=dict(type='AdamW', lr=LR, weight_decay=WEIGHT_DECAY))).optimizer)

    for name, group in built(backbone_lr_mult=0.1).items():
        assert group['lr'] == pytest.approx(LR * (0.1 if name.startswith('backbone.') else 1)), name
    norm = 'backbone.stages.0.blocks.0.norm1.weight'
    assert built(backbone_lr_mult=0.1)[norm]['weight_decay'] == 0
    usual = build_optim_wrapper(model, dict(
        paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(backbone=dict(lr_mult=0.1))),
        optimizer=dict(type='AdamW', lr=LR, weight_decay=WEIGHT_DECAY))).optimizer
    assert groups(model, usual)[norm]['weight_decay'] == WEIGHT_DECAY
    for name, group in built(backbone_lr_mult=3, decay_rate=RATE).items():
        factor = 3 * RATE ** below('DAT', name, False) if name.startswith('backbone.') else 1
        assert group['lr'] == pytest.approx(LR * factor), name
    with pytest.raises(ArgumentError, match='paramwise_cfg needs decay_rate or backbone_lr_mult'):
        built()


@pytest.mark.parametrize('name', [
    'dat/retinanet_dat-t_fpn_1x_coco', 'biformer/mask-rcnn_biformer-s_fpn_1x_coco',
    'crossformer/crossformer-s_upernet_8xb2-160k_ade20k-512x512'])
def test_recipes_take_it_with_their_rules_of_weight_decay(name):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    with torch.device('meta'), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
    wrapper.pop('loss_scale', None)
    usual = groups(model, build_optim_wrapper(model, wrapper).optimizer)
    wrapper.update(constructor='mmattn.LayerDecayOptimizerConstructor',
                   paramwise_cfg=dict(wrapper['paramwise_cfg'], decay_rate=0.9))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        found = groups(model, build_optim_wrapper(model, wrapper).optimizer)
    assert {name: group['weight_decay'] for name, group in found.items()} == {
        name: group['weight_decay'] for name, group in usual.items()}
    blocks = sum(len(stage.blocks) for stage in model.backbone.stages)
    lr = cfg.optim_wrapper.optimizer.lr
    for name, group in found.items():
        stem, inside = name.startswith('backbone.stem.'), name.startswith(('backbone.stages', 'backbone.downsamples'))
        assert (group['lr'] == pytest.approx(lr * 0.9 ** (blocks + 1))) == stem
        assert (group['lr'] == lr) != (stem or inside)


def test_parameters_that_two_modules_share_are_taken_once():
    model = Net(small())
    model.again = model.backbone.stages[0].blocks[0].mlp
    found = groups(model, build(model, bypass_duplicate=True))
    assert len(found) == len(list(model.parameters()))
    assert found['backbone.stages.0.blocks.0.norm1.weight']['lr'] == pytest.approx(LR * RATE ** 6)


def test_any_part_that_knows_its_depth_is_a_backbone():
    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.student, self.image = Net(small()), nn.ModuleDict({'backbone': small(out_indices=(0,))})

    model = Teacher()
    found = groups(model, build(model))
    assert found['student.backbone.stem.0.weight']['lr'] == pytest.approx(LR * RATE ** 7)
    assert found['image.backbone.stem.0.weight']['lr'] == pytest.approx(LR * RATE ** 3)
    assert found['student.head.0.weight']['lr'] == LR


def test_wrapped_models_are_looked_into():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = Net(small())
    plain = groups(model, build(model))
    assert groups(model, build(Wrapper(model))) == plain
    model.backbone = Wrapper(model.backbone)        # as a wrapper of every part has it
    wrapped = groups(model, build(model))
    assert {name.replace('.module', ''): group['lr'] for name, group in wrapped.items()} == {
        name: group['lr'] for name, group in plain.items()}


def test_a_stage_that_fsdp_wraps_has_its_rates():
    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self._fsdp_wrapped_module = module

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self._fsdp_wrapped_module, name)

    model = Net(small())
    plain = groups(model, build(model))
    for i, stage in enumerate(model.backbone.stages):
        model.backbone.stages[i] = Wrapped(stage)
    model.backbone = Wrapped(model.backbone)
    wrapped = groups(model, build(model))
    assert any('._fsdp_wrapped_module.' in name for name in wrapped)
    assert {name.replace('_fsdp_wrapped_module.', ''): group['lr'] for name, group in wrapped.items()} == {
        name: group['lr'] for name, group in plain.items()}
    model.backbone._fsdp_wrapped_module.stem._flat_param = nn.Parameter(torch.zeros(3))
    with pytest.raises(ArgumentError, match='use_orig_params=True'):
        build(model)


@pytest.mark.parametrize(('paramwise', 'message'), [
    (dict(layer_decay_rate=0.9), 'paramwise_cfg has no layer_decay_rate; there is decay_rate, decay_type, num_layers, '
                                 'backbone_lr_mult, custom_keys,'),
    (dict(decay_rate=None), r'paramwise_cfg.decay_rate=None must be above 0 and at most 1'),
    (dict(decay_rate=0), r'paramwise_cfg.decay_rate=0 must be above 0 and at most 1'),
    (dict(decay_rate=1.1), r'paramwise_cfg.decay_rate=1.1 must be above 0 and at most 1'),
    (dict(backbone_lr_mult=0), r'paramwise_cfg.backbone_lr_mult=0 must be above 0'),
    (dict(backbone_lr_mult='slow'), r"paramwise_cfg.backbone_lr_mult='slow' must be above 0"),
    (dict(backbone_lr_mult=float('inf')), r'paramwise_cfg.backbone_lr_mult=inf must be above 0'),
    (dict(decay_type='block_wise'), "paramwise_cfg.decay_type='block_wise' is unknown; choose one of layer_wise, "),
    (dict(num_layers=12), r'paramwise_cfg.num_layers=12, but DAT has 6 blocks; leave num_layers out'),
    (dict(num_layers=6, decay_type='stage_wise'), r'paramwise_cfg.num_layers=6, but DAT has 4 stages'),
    (dict(optimizer=dict(lr=None)), 'optimizer.lr is needed'),
])
def test_what_does_not_fit_is_one_sentence(paramwise, message):
    model = Net(small())
    with pytest.raises(ArgumentError, match=message):
        build(model, **paramwise)
    with pytest.raises(UsageError, match=message), config_errors():     # as a command ends
        build(model, **paramwise)


def test_a_backbone_that_does_not_know_its_depth_is_named():
    with pytest.raises(ArgumentError, match=r'and Linear does not know it: it has no get_layer_depth\(param_name,'):
        build(Net(nn.Linear(2, 2)))


class Foreign(nn.Module):
    """As mmpretrain's backbones are."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.layers = nn.Linear(1, 2), nn.ModuleList([nn.Linear(2, 2)])

    def get_layer_depth(self, param_name, prefix=''):
        name = param_name[len(prefix):]
        return (0 if name.startswith('patch_embed') else 1 if name.startswith('layers') else 2), 3


def test_backbones_of_mmpretrain_are_asked_too():
    model = Net(Foreign())
    found = groups(model, build(model, num_layers=1))
    assert [found[f'backbone.{name}.weight']['lr'] for name in ('patch_embed', 'layers.0')] == [LR / 4, LR / 2]
    with pytest.raises(ArgumentError, match=r"Foreign\.get_layer_depth has no argument by_stage; use 'layer_wise'"):
        build(model, decay_type='stage_wise')


def test_mmpretrains_constructor_gets_what_it_asks_for():
    """It calls get_layer_depth(name, 'backbone.') and gives lr * rate ^ (layers - depth - 1)."""
    backbone = small()
    assert backbone.get_layer_depth('backbone.stem.0.weight', 'backbone.') == (0, 8)
    assert backbone.get_layer_depth('backbone.stages.2.blocks.1.attn.x', 'backbone.') == (5, 8)
    assert backbone.get_layer_depth('head.fc.weight', 'backbone.') == (7, 8)
    assert backbone.get_layer_depth('stages.2.blocks.1.attn.x') == (5, 8)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_a_model_of_either_library_trains_a_step(scope, monkeypatch):
    name, batch = (('retinanet_biformer', detection) if scope == 'mmdet' else ('upernet_dat', segmentation))
    cfg = Config.fromfile(ROOT / f'configs/demo/{name}_scenes.py')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, dict(
            constructor='mmattn.LayerDecayOptimizerConstructor', optimizer=dict(type='SGD', lr=1e-3),
            paramwise_cfg=dict(decay_rate=0.8)))
        monkeypatch.setattr(wrapper, 'zero_grad', lambda: None)     # so that gradients can be looked at
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        losses = model.train_step(batch(), wrapper)
    assert losses['loss'].isfinite()
    found = groups(model, wrapper.optimizer)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, before[name] - found[name]['lr'] * p.grad, rtol=1e-5, atol=1e-7)
    blocks = sum(len(stage.blocks) for stage in model.backbone.stages)
    assert sorted({group['lr'] for group in found.values()}, reverse=True) == pytest.approx(
        [1e-3 * 0.8 ** n for n in range(blocks + 2)])


def detection():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    size = (64, 80)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=1.))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[10., 10., 50., 40.]]), labels=torch.tensor([1]))
    return dict(inputs=[torch.randint(256, (3, *size), dtype=torch.uint8)], data_samples=[sample])


def segmentation():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    size, samples = (64, 80), []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.randint(5, (1, *size)))
        samples.append(sample)
    return dict(inputs=[torch.randint(256, (3, *size), dtype=torch.uint8) for _ in samples], data_samples=samples)


def test_the_log_says_in_one_line_what_rates_there_are(monkeypatch):
    lines = []
    monkeypatch.setattr(layer_decay, 'print_log', lambda line, _: lines.append(line))
    build(Net(small()))
    assert lines == ['layer_wise decay 0.5 of the learning rate: 8 rates, from 0.000781 to 0.1']
