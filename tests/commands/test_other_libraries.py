"""Configs of other libraries are refused in one line; one that names no library by default names it in its types."""
from argparse import ArgumentParser
from importlib import import_module

import pytest
import torch
from mmengine.config import Config

from mmattn.commands.options import add_runner, runner_config
from tests.conftest import ROOT, loader_options

SEG = ROOT / 'configs/demo/upernet_dat_scenes.py'
CONFIG = """
default_scope = '{}'
model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18))
train_dataloader = test_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type='CIFAR10'))
"""
ALL, DENSE = 'mmdet, mmseg and mmpretrain', 'mmdet and mmseg'


@pytest.mark.parametrize(('scope', 'tool', 'after', 'known', 'verb'), [
    ('mmagic', 'train', (), ALL, 'trained'), ('mmagic', 'test', ('x.pth',), ALL, 'tested'),
    ('mmagic', 'replay', ('x.pth',), ALL, 'replayed'), ('mmagic', 'check_data', (), ALL, 'checked'),
    ('mmagic', 'get_flops', (), ALL, 'counted'), ('mmpretrain', 'analyze', ('x.pkl',), DENSE, 'analyzed'),
    ('mmpretrain', 'analyze_points', ('x.pth',), DENSE, 'measured'),
    ('mmpretrain', 'init_config', ('--data', ''), DENSE, 'taken'), ('mmpretrain', 'benchmark', (), DENSE, 'measured')])
def test_another_library_is_refused(one_line, tmp_path, scope, tool, after, known, verb):
    config = tmp_path / 'config.py'
    config.write_text(CONFIG.format(scope))
    torch.save({}, tmp_path / 'x.pth')
    line = one_line(f'tools/{tool}.py', config, *(name if name.startswith('--') else tmp_path / name for name in after))
    assert line == f"error: default_scope={scope!r}: only {known} configs can be {verb}"


def with_library(node, registries, scope):
    """A config with the library before the name of each of its types."""
    if isinstance(node, dict):
        kind = node.get('type')
        known = isinstance(kind, str) and any(kind in registry.module_dict for registry in registries)
        return {key: f'{scope}.{kind}' if key == 'type' and known else with_library(value, registries, scope)
                for key, value in node.items()}
    return type(node)(with_library(one, registries, scope) for one in node) if isinstance(node, (list, tuple)) else node


@pytest.fixture
def prefixed(tmp_path):
    """The demo's segmentor without a default scope."""
    cfg = Config.fromfile(SEG)
    scope = cfg.pop('default_scope')
    import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    registries = [one for one in vars(import_module(f'{scope}.registry')).values() if hasattr(one, 'module_dict')]
    path = tmp_path / 'prefixed.py'
    Config(with_library(cfg.to_dict(), registries, scope)).dump(path)
    return path


def test_types_may_name_the_library(prefixed):
    assert "'mmseg.UPerHead'" in prefixed.read_text()
    parser = ArgumentParser()
    add_runner(parser)
    assert 'default_scope' not in runner_config(parser.parse_args([str(prefixed)]), 'trained')


@pytest.mark.slow
def test_a_config_whose_types_name_the_library_trains_and_tests(run, write_scenes, prefixed, tmp_path):
    options = ['--work-dir', tmp_path, '--cfg-options', *loader_options(write_scenes(training=4, validation=2)),
               'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    run('tools/train.py', prefixed, *options)
    assert 'mIoU' in run('tools/test.py', prefixed, tmp_path / 'iter_2.pth', *options).stdout
