"""Trainings that are killed and go on, as a user sees them."""
import os
import random
import re
import signal
import subprocess
import time

import pytest
import torch
from mmengine.config import Config

from mmattn.checkpoint.reading import read_checkpoint
from mmattn.engine.training import resume_from
from mmattn.errors import UsageError
from tests.conftest import ROOT, command, loader_options

# Dropout, stochastic depth, batch norm and flips are on, samples come from two worker processes, and a checkpoint is
# written in the middle of an accumulation of gradients.
SEG, DET = ROOT / 'configs/demo/upernet_dat_scenes.py', ROOT / 'configs/demo/mask-rcnn_dat_scenes.py'


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=10, validation=2)


def training(config, data, work, *options):
    """The command that trains twelve steps, or four epochs of five."""
    settings = [*loader_options(data), 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=2',
                'train_dataloader.persistent_workers=True', 'model.backbone.drop_path_rate=0.3',
                'default_hooks.logger.interval=1']
    if config == SEG:
        settings += ['train_cfg.max_iters=12', 'train_cfg.val_interval=12', 'default_hooks.checkpoint.interval=3',
                     'optim_wrapper.accumulative_counts=2']
    else:
        settings += ['train_cfg.max_epochs=4', 'train_cfg.val_interval=4',
                     f'val_evaluator.ann_file={data}/annotations/instances_validation.json']
    return ['tools/train.py', config, '--work-dir', work, *options, '--cfg-options', *settings]


def kill(args, when, after=0.0):
    """Start a program and kill it so many seconds after `when()` says so."""
    with subprocess.Popen(**command(*args), cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not when():
            time.sleep(0.02)
        time.sleep(after)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def weights(work):
    return read_checkpoint((work / 'last_checkpoint').read_text())['state_dict']


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


@pytest.fixture(scope='module')
def whole(run, data, tmp_path_factory):
    """Weights of an uninterrupted training of each config, and the seconds from its first checkpoint to its last."""
    results = {}

    def call(config):
        if config not in results:
            work = tmp_path_factory.mktemp('whole')
            run(*training(config, data, work), 'default_hooks.checkpoint.max_keep_ckpts=9')
            written = [path.stat().st_mtime for path in work.glob('*.pth')]
            results[config] = weights(work), max(written) - min(written)
        return results[config]
    return call


@pytest.mark.parametrize(('config', 'first'), [
    (SEG, 'iter_3.pth'), pytest.param(DET, 'epoch_2.pth', marks=pytest.mark.slow)])
def test_a_killed_training_ends_as_if_it_had_not_been(run, data, tmp_path, whole, config, first):
    kill(training(config, data, tmp_path), when=(tmp_path / first).exists)
    assert not {'iter_12.pth', 'epoch_4.pth'} & {path.name for path in tmp_path.iterdir()}
    assert f'resumes from {tmp_path}' in run(*training(config, data, tmp_path, '--resume')).stdout
    assert largest_difference(weights(tmp_path), whole(config)[0]) <= 1e-6


def save(path, **changes):
    torch.save({'state_dict': {}, 'optimizer': {}, 'message_hub': {}, 'meta': {'seed': 7}, **changes}, path)


def test_a_cut_checkpoint_is_named_and_the_one_before_it_used(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path / f'iter_{step}.pth')
    for step in (2, 3):
        path = tmp_path / f'iter_{step}.pth'
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    (tmp_path / 'last_checkpoint').write_text(str(path))
    cfg = Config(dict(work_dir=str(tmp_path)))
    resumed = resume_from(cfg, 'auto')
    assert (resumed.path, resumed.content['meta']) == (tmp_path / 'iter_1.pth', {'seed': 7})
    assert (cfg.load_from, cfg.randomness.seed) == (str(tmp_path / 'iter_1.pth'), 7)
    three, two = resumed.refused
    assert re.fullmatch(rf'checkpoint {path} is cut short: \d+ bytes without an end', three)
    assert two.startswith(f'checkpoint {tmp_path}/iter_2.pth is cut short')
    with pytest.raises(UsageError, match=rf'is cut short.*; the latest other one is {tmp_path}/iter_2\.pth'):
        resume_from(cfg, str(path))
    (tmp_path / 'iter_1.pth').unlink()
    assert resume_from(cfg, 'auto').path is None


def test_weights_alone_are_not_resumed_from(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    with pytest.raises(UsageError, match='holds no optimizer, message_hub, meta; load_from takes such weights'):
        resume_from(Config(dict(work_dir=str(tmp_path))), tmp_path / 'weights.pth')


def test_a_checkpoint_of_another_model_is_refused(one_line, data, tmp_path):
    save(tmp_path / 'iter_1.pth', state_dict={'layer.weight': torch.ones(1)})
    save(tmp_path / 'iter_2.pth', state_dict={'layer.weight': torch.ones(1)})
    assert re.fullmatch(
        rf'error: {tmp_path}/iter_2\.pth is of another model: 0 of \d+ tensors are taken: \d+ missing '
        r'\(backbone\.\S+, backbone\.\S+, …\), 1 unknown \(layer\.weight\); the latest other one is '
        rf'{tmp_path}/iter_1\.pth', one_line(*training(SEG, data, tmp_path, '--resume')))


@pytest.mark.slow
@pytest.mark.parametrize('attempt', range(20))
def test_killed_at_any_moment(run, data, tmp_path, whole, attempt):
    config = (SEG, DET)[attempt % 2]
    expected, seconds = whole(config)
    moment = random.random() * seconds
    kill(training(config, data, tmp_path), when=lambda: any(tmp_path.glob('*.pth')), after=moment)
    stood = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert stood
    run(*training(config, data, tmp_path, '--resume'))
    difference = largest_difference(weights(tmp_path), expected)
    print(f'{config.stem}: killed {moment:.2f} s after its first checkpoint, with {", ".join(stood)}; difference '
          f'{difference:.1e}')
    assert difference <= 1e-6
