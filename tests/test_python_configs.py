"""Configs in Python, with classes in place of their names: an example beside its text, and tools that take it."""
import re
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook
from mmengine.model import PretrainedInit
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper

from mmattn.backbones import DAT
from mmattn.checkpoint.files import check_pretrained
from mmattn.config import named, read_config
from mmattn.datasets.skipping import skip_in_training
from mmattn.engine.building import build_model
from mmattn.engine.checkpointing import CheckpointHook as Ours
from mmattn.engine.training import add_safeguards, choose_precision, describe_schedule
from mmattn.errors import ArgumentError, UsageError
from mmattn.layers import AttentionBlock, LocalAttention
from tests.conftest import ROOT, loader_options

TEXT, PYTHON = (ROOT / f'configs/demo/retinanet_biformer_scenes{end}.py' for end in ('', '_in_python'))
SPELT = {'GN': 'GroupNorm'}     # names in a registry that are not those of the class


def plain(node):
    """A node of a config with the names of classes in place of classes."""
    if isinstance(node, dict):
        return {key: SPELT.get(named(node), named(node)) if key == 'type' else plain(value)
                for key, value in node.items() if key != '_scope_'}
    return [plain(value) for value in node] if isinstance(node, (list, tuple)) else node


def test_the_example_says_what_the_text_says():
    text, python = read_config(TEXT), read_config(PYTHON)
    assert isinstance(python.model.backbone.type, type)
    of_bases = {'custom_imports', 'no_decay', 'no_decay_but_heads', 'no_decay_of_vectors', 'small_biformer',
                'small_biformer_but_first', 'vis_backends'}
    assert set(text) - set(python) == of_bases
    for key in set(text) - of_bases:
        assert plain(python[key]) == plain(text[key]), key
    assert all(isinstance(python[key], type) or callable(python[key]) for key in set(python) - set(text))    # imports


def test_the_example_builds_what_the_text_builds():
    one, other = (read_config(path) for path in (TEXT, PYTHON))
    models = [build_model(cfg) for cfg in (one, other)]
    shapes = [{name: (tuple(p.shape), type(p)) for name, p in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]
    assert str(models[0]) == str(models[1])
    groups = [[(len(group['params'][0].shape), group['lr'], group['weight_decay'])
               for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups]
              for model, cfg in zip(models, (one, other))]
    assert groups[0] == groups[1]


@pytest.fixture(scope='module')
def options(write_scenes):
    data = write_scenes(4, 2)
    file = data / 'annotations/instances_validation.json'
    return ['--cfg-options', *loader_options(data), 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=1',
            'train_cfg.val_interval=1', f'val_evaluator.ann_file={file}', f'test_evaluator.ann_file={file}',
            'model.test_cfg.score_thr=0', 'model.test_cfg.nms_pre=20']


@pytest.mark.slow
def test_the_example_trains_and_tests(run_here, options, tmp_path):
    status, stdout, stderr = run_here('tools/train.py', PYTHON, '--work-dir', tmp_path, '--amp', *options)
    assert status == 0, stderr
    assert 'effective batch: 1 process(es) x 2 image(s)' in stdout
    dumped = tmp_path / PYTHON.name     # the config as the training was, with names of classes again
    cfg = Config.fromfile(dumped)
    assert cfg.model.backbone.type == 'mmattn.backbones.BiFormer'
    assert cfg.default_hooks.checkpoint.type == 'mmattn.CheckpointHook'
    assert cfg.train_dataloader.sampler.type == 'mmattn.NumberedSampler'
    assert cfg.train_dataloader.dataset.pipeline[0].type == 'mmattn.LoadOrSkip'
    assert cfg.optim_wrapper.type == 'mmattn.BFloat16OptimWrapper'
    status, stdout, stderr = run_here('tools/test.py', PYTHON, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path,
                                      '--out', tmp_path / 'found.pkl', '--show-dir', tmp_path / 'shown', *options)
    assert status == 0, stderr
    assert re.search(r'^coco/bbox_mAP -?[0-9.]+$', stdout, re.MULTILINE)
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 2


@pytest.mark.slow
def test_a_training_goes_on_with_the_config_that_it_left(run_here, options, tmp_path):
    status, _, stderr = run_here('tools/train.py', PYTHON, '--work-dir', tmp_path, *options)
    assert status == 0, stderr
    status, stdout, stderr = run_here('tools/train.py', tmp_path / PYTHON.name, '--work-dir', tmp_path, '--resume',
                                      '--cfg-options', 'train_cfg.max_epochs=2')
    assert status == 0, stderr
    assert 'resumes from' in stdout
    assert (tmp_path / 'epoch_2.pth').exists()


@pytest.mark.slow
def test_other_tools_take_it(run_here, options, tmp_path):
    status, stdout, stderr = run_here('tools/check_data.py', PYTHON, '--out', tmp_path / 'batch.png', *options)
    assert status == 0, stdout + stderr
    assert (tmp_path / 'batch.png').exists()
    status, stdout, stderr = run_here('tools/get_flops.py', PYTHON, '--shape', '128', '160')
    assert status == 0, stderr
    text = run_here('tools/get_flops.py', TEXT, '--shape', '128', '160')[1]
    assert stdout.splitlines()[1:] == text.splitlines()[1:]
    image = next(path for path in (tmp_path.parent).rglob('*/images/validation/*.png'))
    status, _, stderr = run_here('tools/visualize.py', image, PYTHON, 'random', '--out-dir', tmp_path / 'attention')
    assert status == 0, stderr


def python(tmp_path, text):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    return path


@pytest.mark.parametrize(('text', 'message'), [
    ('from mmattn.backbones import BiFormr\nmodel = dict(type=BiFormr)\n', 'BiFormr'),
    ('from mmatn.backbones import BiFormer\nmodel = dict(type=BiFormer)\n', 'mmatn'),
    ('from mmengine.config import read_base\nwith read_base():\n    from .none import *\n', 'none.py not found'),
    ('from mmengine.config import read_base\nwith open("x") as file:\n    pass\n', 'Only `read_base` context manager'),
    ('from mmattn.backbones import BiFormer\nmodel = BiFormer()\n', 'a class is called in it'),
    ('from mmattn.backbones import BiFormer\nmodel = dict(\n', 'never closed'),
])
def test_what_cannot_be_read_is_one_line(one_line, tmp_path, text, message):
    line = one_line('tools/get_flops.py', python(tmp_path, text))
    assert str(tmp_path / 'mine.py') in line
    assert re.search(message, line)


def test_a_base_that_is_text_is_one_line(one_line, tmp_path):
    (tmp_path / 'base.py').write_text('from mmattn.backbones import DAT\nmodel = dict(type=DAT)\n')
    line = one_line('tools/get_flops.py', python(tmp_path, '_base_ = "base.py"\n'))
    assert 'must match the current configuration file type' in line


def test_an_error_of_the_config_itself_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError):
        read_config(python(tmp_path, 'from mmattn.backbones import DAT\nmodel = dict(type=DAT, depth=1 / 0)\n'))
    with pytest.raises(RuntimeError, match='of mine'):
        read_config(python(tmp_path, 'from mmattn.backbones import DAT\nraise RuntimeError("of mine")\n'))


def test_options_change_a_config_with_classes():
    cfg = read_config(PYTHON, {'model.backbone.num_windows': 8, 'train_dataloader.dataset.pipeline.3.prob': 0.0})
    assert cfg.model.backbone.num_windows == 8
    assert cfg.train_dataloader.dataset.pipeline[3].prob == 0
    assert cfg.model.backbone.type.__name__ == 'BiFormer'


class Mine(CheckpointHook):
    pass


@pytest.mark.parametrize(('given', 'expected'), [
    ('CheckpointHook', 'mmattn.CheckpointHook'), (CheckpointHook, 'mmattn.CheckpointHook'),
    ('mmengine.hooks.CheckpointHook', 'mmattn.CheckpointHook'), (Mine, Mine), (Ours, Ours)])
def test_safeguards_replace_mmengines_hook_and_no_other(given, expected):
    cfg = read_config(PYTHON)
    cfg.default_hooks.checkpoint.type = given
    add_safeguards(cfg)
    assert cfg.default_hooks.checkpoint.type == expected
    sampler = deepcopy(cfg.train_dataloader.sampler)
    add_safeguards(cfg)         # of a config that has them
    assert cfg.train_dataloader.sampler == sampler
    assert named(sampler.sampler) == 'DefaultSampler'


def test_loading_is_wrapped_once(tmp_path):
    cfg = read_config(PYTHON, dict(work_dir=str(tmp_path)))
    for _ in range(2):
        skip_in_training(cfg)
        names = [named(step) for step in cfg.train_dataloader.dataset.pipeline]
        assert names == ['LoadOrSkip', 'Resize', 'RandomFlip', 'PackDetInputs']
    assert [named(step) for step in cfg.train_dataloader.dataset.pipeline[0].transforms] == [
        'LoadImageFromFile', 'LoadAnnotations']


@pytest.mark.skipif(torch.cuda.is_available(), reason='the recipe is trained as it is on a GPU')
def test_mixed_precision_named_by_a_class():
    cfg = Config(dict(optim_wrapper=ConfigDict(type=AmpOptimWrapper, loss_scale='dynamic', optimizer=dict(type='SGD'))))
    assert 'float32 instead of the mixed precision' in choose_precision(cfg, None)
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', optimizer=dict(type='SGD'))


def test_a_schedule_of_classes_is_compared():
    cfg = read_config(PYTHON, {'train_cfg.max_epochs': 12})
    assert describe_schedule(cfg).startswith('the schedule of the learning rate ends at epoch 5, the training at 12')


def test_weights_named_by_a_class_are_checked_and_loaded(tmp_path):
    arch = [dict(embed_dims=8, num_heads=2, blocks='L', window_size=3)]
    file = tmp_path / 'weights.pth'
    for kind in (PretrainedInit, 'Pretrained', 'mmengine.model.PretrainedInit'):
        setting = dict(type=kind, checkpoint=str(tmp_path / 'none.pth'))
        with pytest.raises(UsageError, match='checkpoint not found'):
            check_pretrained(dict(backbone=dict(init_cfg=setting)))
        source = DAT(arch, out_indices=(0,))
        torch.save(source.state_dict(), file)
        model = DAT(arch, out_indices=(0,), init_cfg=dict(setting, checkpoint=str(file)))
        model.init_weights()
        assert torch.equal(model.stem[0].weight, source.stem[0].weight)


def test_layers_by_their_class():
    for kind in (LocalAttention, 'mmattn.layers.LocalAttention', 'mmattn.layers.window.LocalAttention'):
        block = AttentionBlock(8, dict(type=kind, num_heads=2))
        assert any(type(module) is LocalAttention for module in block.modules())
    with pytest.raises(ArgumentError, match="attention type='LocalAttention' is unknown"):
        AttentionBlock(8, dict(type=type('LocalAttention', (torch.nn.Module,), {}), num_heads=2))
