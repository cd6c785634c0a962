"""The classifiers: every config is as tests/data/imagenet.yml says, takes the authors' files, trains and tests."""
import math
import re
import sys
from copy import deepcopy
from functools import cache
from importlib.util import find_spec

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmattn.config import read_config
from mmattn.engine.building import build_model, load_weights
from mmattn.errors import ArgumentError, UsageError
from mmattn.necks import NormalizedPooling
from mmattn.openmmlab import choose_checkpoint_reading, require_for
from mmattn.registry import MODELS
from tests import authors
from tests.compare import check_trains
from tests.conftest import ROOT
from tests.steps import predict_once, train_once, without_gradient

if find_spec('mmpretrain') is None:
    pytest.skip('mmpretrain is not installed', allow_module_level=True)
require_for('mmpretrain')
from mmpretrain.structures import DataSample  # noqa: E402

ROWS = yaml.safe_load((ROOT / 'tests/data/imagenet.yml').read_text())['rows']
TYPES = {'dat': 'DAT', 'dat-pp': 'DATPlusPlus', 'crossformer': 'CrossFormer', 'crossformer-pp': 'CrossFormerPlusPlus',
         'biformer': 'BiFormer', 'debiformer': 'DeBiFormer'}
ARCHS = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large', 'h': 'huge', 'stl': 'stl-legacy', 'stl-nchw': 'stl'}
STEPS = 10      # of an epoch


@cache
def config(name):
    return read_config(ROOT / 'configs/imagenet' / f'{name}.py')


def test_there_is_a_fact_for_every_config():
    assert set(ROWS) == {path.stem for path in (ROOT / 'configs/imagenet').glob('*.py')}


@pytest.mark.parametrize('name', ROWS)
def test_a_model_is_what_its_name_says(name):
    family, size, images, side = re.fullmatch(
        r'(dat|dat-pp|crossformer|crossformer-pp|biformer|debiformer)-([tsblh]|stl|stl-nchw)_8xb(\d+)_in1k(-384px)?',
        name).groups()
    cfg, facts = config(name), ROWS[name]
    with torch.device('meta'):
        model = build_model(cfg)
    assert (cfg.model.backbone.type, cfg.model.backbone.arch) == (f'mmattn.{TYPES[family]}', ARCHS[size])
    assert int(images) == facts['images'] == cfg.train_dataloader.batch_size
    rates = [block.drop_path.rate for stage in model.backbone.stages for block in stage.blocks]
    assert rates == pytest.approx(torch.linspace(0, facts['drop_path'], len(rates)).tolist())
    assert isinstance(model.neck.norm, nn.BatchNorm2d if 'biformer' in family else nn.LayerNorm)
    assert model.head.fc.weight.shape == (1000, model.backbone.out_channels[0])
    if family == 'dat' and side:
        assert {block.attn.window for stage in model.backbone.stages[:2] for block in stage.blocks} == {(12, 12)}
        assert model.backbone.stages[3].blocks[1].attn.rpe_table.shape[1:] == (23, 23)


@pytest.mark.parametrize('name', ROWS)
def test_an_optimizer_is_the_authors(name):
    cfg, facts = config(name), ROWS[name]
    with torch.device('meta'):
        model = build_model(cfg)
    optimizer = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper')).optimizer
    assert type(optimizer) is torch.optim.AdamW
    batch = cfg.auto_scale_lr.base_batch_size
    assert batch == 8 * facts['images']
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    for own, p in model.named_parameters():
        group, exempt = groups[id(p)], p.ndim == 1 or any(word in own for word in facts['names'])
        assert group['weight_decay'] == (0 if exempt else facts['weight_decay']), own
        assert (group['betas'], group['eps']) == ((0.9, 0.999), 1e-8)
        assert group['lr'] == pytest.approx(facts['lr'] * batch / 512)
    assert (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm') == facts['clip']
    assert cfg.optim_wrapper.type == 'mmattn.AmpOptimWrapper'
    assert cfg.train_cfg.max_epochs == facts['epochs']


def timm_rate(facts, epoch):
    """The rate for 512 images after so many epochs, whole or not."""
    if epoch < facts['warmup']:
        return facts['start'] + (facts['lr'] - facts['start']) * epoch / facts['warmup']
    return facts['end'] + (facts['lr'] - facts['end']) / 2 * (1 + math.cos(math.pi * epoch / facts['epochs']))


SCHEDULED = [name for name in ROWS if re.match(r'(dat|dat-pp|crossformer|biformer|debiformer)-[tb]', name)]


@pytest.mark.parametrize('name', SCHEDULED)
def test_a_schedule_is_the_authors_but_for_the_warm_up(name):
    cfg, facts = config(name), ROWS[name]
    base = cfg.optim_wrapper.optimizer.lr
    wrapper = OptimWrapper(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base))
    schedulers = []
    for part in cfg.param_scheduler:
        assert bool(part.get('convert_to_iter_based')) == (facts['by'] == 'iteration')
        settings = {key: value for key, value in part.items() if key not in ('type', 'convert_to_iter_based')}
        kind, given = PARAM_SCHEDULERS.get(part.type), dict(settings, optimizer=wrapper)
        schedulers.append(kind.build_iter_from_epoch(**given, epoch_length=STEPS)
                          if facts['by'] == 'iteration' else kind(**given))
    per_epoch = STEPS if facts['by'] == 'iteration' else 1
    scale = cfg.auto_scale_lr.base_batch_size / 512
    lowest = (1 + math.cos(math.pi * facts['warmup'] / facts['epochs'])) / 2
    for step in range(facts['epochs'] * per_epoch):
        ours, theirs = wrapper.get_lr()['lr'][0] / scale, timm_rate(facts, step / per_epoch)
        if step / per_epoch >= facts['warmup']:
            assert ours == pytest.approx(theirs, rel=1e-3), step
        else:       # theirs jumps to the cosine at the end of the warm-up; LinearLR ends a step early
            assert lowest * theirs - 1e-9 <= ours <= theirs + facts['lr'] / facts['warmup'] / per_epoch, step
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


@pytest.mark.parametrize('name', ROWS)
def test_images_are_prepared_as_the_authors_do(name):
    cfg, (resize, side, crop) = config(name), ROWS[name]['test']
    steps = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
    assert steps[resize].scale == (side if resize == 'ResizeEdge' else (side, side))
    assert (steps[resize].backend, steps[resize].interpolation) == ('pillow', 'bicubic')
    assert steps.get('CenterCrop', dict(crop_size=side))['crop_size'] == crop
    train = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(train) == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing',
                           'PackInputs']
    assert train['RandomResizedCrop'].scale == crop
    randaugment = train['RandAugment']
    assert (randaugment.num_policies, randaugment.magnitude_level, randaugment.magnitude_std) == (2, 9, 0.5)
    assert (randaugment.policies, train['RandomErasing'].erase_prob) == ('timm_increasing', 0.25)
    assert [(one.type, one.alpha) for one in cfg.model.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]
    assert cfg.model.head.loss.label_smooth_val == 0.1
    sampler = cfg.train_dataloader.sampler.type
    assert sampler == ('RepeatAugSampler' if name.startswith('biformer') else 'DefaultSampler')
    means = [(hook.type, hook.momentum, hook.evaluate_on_ema) for hook in cfg.get('custom_hooks', ())]
    assert means == ([('EMAHook', 4e-5, False)] if name.startswith('biformer') else [])


def step(name):
    """A step of training and a test of two small images."""
    cfg = config(name)
    model = build_model(cfg)
    samples = [DataSample().set_gt_label(label) for label in (3, 999)]
    data = dict(inputs=[torch.randint(256, (3, 64, 64), dtype=torch.uint8) for _ in samples], data_samples=samples)
    losses = train_once(model, deepcopy(data), 'mmpretrain')
    assert losses['loss'].isfinite()
    assert not without_gradient(model)
    for found in predict_once(model, data, 'mmpretrain'):
        assert found.pred_score.sum().item() == pytest.approx(1)


def test_a_recipe_trains_and_tests_a_step():
    step('biformer-t_8xb128_in1k')


@pytest.mark.slow
@pytest.mark.parametrize('name', ROWS)
def test_every_recipe_trains_and_tests_a_step(name):
    step(name)


# ---- the authors' files

SMALL = {
    'dat': dict(type='mmattn.DAT', out_indices=(1,), out_norm=False, pretrain_img_size=32, arch=[
        dict(embed_dims=8, num_heads=2, blocks='LS', window_size=4),
        dict(embed_dims=16, num_heads=2, blocks='D', offset_kernel_size=3)]),
    'dat-pp': dict(type='mmattn.DATPlusPlus', out_indices=(0,), out_norm=False, pretrain_img_size=32, arch=[
        dict(embed_dims=16, num_heads=2, blocks='ND', mlp='depthwise')]),
    'crossformer': dict(type='mmattn.CrossFormer', out_indices=(0,), arch=[
        dict(embed_dims=16, num_heads=2, blocks='SL', group_size=4, interval=2)]),
    'biformer': dict(type='mmattn.BiFormer', out_indices=(0,), out_norm=False, arch=[
        dict(embed_dims=16, num_heads=2, blocks='R', num_windows=2, topk=2)]),
}


def small(name, classes=3, **backbone):
    """The config of a classifier with a small backbone."""
    return Config(dict(default_scope='mmpretrain', model=dict(
        type='ImageClassifier', backbone={**SMALL[name], **backbone},
        neck=dict(type='mmattn.NormalizedPooling', in_channels=16, norm='batch' if name == 'biformer' else 'layer'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=16))))


def written(path, name):
    """A small classifier with random weights, and its file as its authors would write it."""
    choose_checkpoint_reading()
    model = build_model(small(name)).eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.1, 1)
    state = authors.classifier(model, name.partition('-')[0], convolutions=name == 'dat-pp')
    torch.save(dict(model=state, epoch=7), path)
    return model


@pytest.mark.parametrize('name', SMALL)
def test_an_authors_file_is_taken_as_it_is(name, tmp_path):
    source = written(tmp_path / 'theirs.pth', name)
    model = build_model(small(name)).eval()
    load_weights(model, str(tmp_path / 'theirs.pth'))
    for own, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[own], value), own
    x = torch.randn(2, 3, 32, 32)
    map_, = model.backbone(x)
    logits = model.head.fc(model.neck.norm(map_).mean((2, 3)))
    torch.testing.assert_close(model.head(model.neck(model.backbone(x))), logits)
    assert logits.shape == (2, 3)


def test_a_file_of_other_classes_is_refused(tmp_path):
    written(tmp_path / 'theirs.pth', 'biformer')
    with pytest.raises(UsageError, match=r'theirs.pth is not of this model: size mismatch for head.fc.weight'):
        load_weights(build_model(small('biformer', classes=4)), str(tmp_path / 'theirs.pth'))


def test_a_detector_starts_from_a_classifier_but_for_its_output_norms(tmp_path):
    source = written(tmp_path / 'theirs.pth', 'dat')
    torch.save(source.state_dict(), tmp_path / 'ours.pth')
    for name in ('theirs.pth', 'ours.pth'):
        backbone = MODELS.build({**SMALL['dat'], 'out_indices': (0, 1), 'out_norm': True, 'init_cfg': dict(
            type='Pretrained', checkpoint=str(tmp_path / name))})
        backbone.init_weights()
        for own, value in backbone.state_dict().items():
            if own.startswith('norms.'):
                assert value.unique().tolist() == [own.endswith('weight')]
            else:
                assert torch.equal(value, source.state_dict()[f'backbone.{own}']), own


def test_tables_of_a_classifier_for_smaller_images_are_resized(tmp_path):
    source = written(tmp_path / 'theirs.pth', 'dat')
    torch.save(source.state_dict(), tmp_path / 'ours.pth')
    found = []
    for name in ('theirs.pth', 'ours.pth'):
        model = build_model(small('dat', pretrain_img_size=64, window_sizes=6))
        load_weights(model, str(tmp_path / name))
        found.append(model.backbone.state_dict())
    assert found[0]['stages.1.blocks.0.attn.rpe_table'].shape == (2, 15, 15)
    for own, value in found[0].items():
        assert torch.equal(value, found[1][own]), own


# ---- what lies between

@pytest.mark.parametrize(('norm', 'kind'), [('layer', nn.LayerNorm), ('batch', nn.BatchNorm2d)])
def test_the_norm_comes_before_the_mean(norm, kind):
    neck = NormalizedPooling(5, norm).eval()
    assert isinstance(neck.norm, kind)
    x = torch.randn(2, 5, 3, 7)
    for p in (neck.norm.weight, neck.norm.bias):
        nn.init.normal_(p)
    if norm == 'layer':
        normed = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    else:
        neck.norm.running_mean.normal_()
        neck.norm.running_var.uniform_(1, 2)
        mean, var = (stat[:, None, None] for stat in (neck.norm.running_mean, neck.norm.running_var))
        normed = (x - mean) / (var + 1e-5).sqrt()
    expected = (normed * neck.norm.weight[:, None, None] + neck.norm.bias[:, None, None]).mean((2, 3))
    out, = neck((x,))
    torch.testing.assert_close(out, expected)
    x.requires_grad_()
    check_trains(neck.train()((x,)), [x, *neck.parameters()])


@pytest.mark.parametrize(('part', 'message'), [
    ('neck', r'model\.neck\.in_channels=\[8\], but DAT with out_indices=\(1,\) gives .*16'),
    ('head', r'model\.head\.in_channels=8, but the NormalizedPooling before it gives 16')])
def test_channels_that_do_not_fit_are_named(part, message):
    cfg = small('dat')
    cfg.model[part].in_channels = 8
    with pytest.raises(UsageError, match=message):
        build_model(cfg)


@pytest.mark.parametrize(('call', 'message'), [
    (lambda: NormalizedPooling(0), 'in_channels=0 must be at least 1'),
    (lambda: NormalizedPooling(4, 'group'), "norm='group' is unknown; choose one of layer, batch"),
    (lambda: NormalizedPooling(4, norms='batch'), 'NormalizedPooling has no argument norms=.*meant as norm'),
    (lambda: NormalizedPooling(4)([torch.zeros(1, 5, 2, 2)]), r'maps\[0\] .*5'),
    (lambda: NormalizedPooling(4)([torch.zeros(1, 4, 2, 2)] * 2), 'there are 2 maps')])
def test_what_a_pooling_refuses(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_torchvision_is_not_needed_and_not_left_behind():
    from mmpretrain.registry import TRANSFORMS
    if find_spec('torchvision'):
        pytest.skip('torchvision is installed')
    assert not [name for name in sys.modules if name.partition('.')[0] == 'torchvision']
    with pytest.raises(ImportError, match='this transform needs torchvision, and there is none'):
        TRANSFORMS.build(dict(type='MAERandomResizedCrop', size=3))
