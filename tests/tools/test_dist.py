"""Two processes over gloo beside one with the same global batch, as a user starts them."""
import json
import os
import subprocess
import sys

import pytest
import torch

from mmattn.checkpoint.reading import read_checkpoint
from tests.conftest import ROOT, loader_options

CONFIG = ROOT / 'configs/demo/upernet_dat_scenes.py'
# Nothing random but what the seed of the training says, and no statistics of a batch, which has half the images.
OPTIONS = ['train_dataloader.dataset.pipeline.2.prob=0.0', 'model.decode_head.norm_cfg.type=GN',
           'model.decode_head.norm_cfg.num_groups=16', 'model.auxiliary_head.norm_cfg.type=GN',
           'model.auxiliary_head.norm_cfg.num_groups=16', 'model.decode_head.dropout_ratio=0.0',
           'model.auxiliary_head.dropout_ratio=0.0', 'train_cfg.max_iters=4', 'train_cfg.val_interval=4',
           'default_hooks.checkpoint.interval=4', 'default_hooks.logger.interval=1']
ENVIRONMENT = {**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}


@pytest.fixture(scope='module')
def data(write_scenes):
    """The validation set does not divide by two."""
    return write_scenes(training=12, validation=5)


def call(*command):
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True,
                          check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def figures(folder):
    """The last mIoU and the weights of a training."""
    path, = folder.rglob('scalars.json')
    last = json.loads(path.read_text().splitlines()[-1])
    return last['mIoU'], read_checkpoint(folder / 'iter_4.pth')['state_dict']


def test_two_processes_train_and_test_as_one_does(data, tmp_path):
    options = ['--cfg-options', *OPTIONS, *loader_options(data)]
    call(sys.executable, 'tools/train.py', CONFIG, '--work-dir', tmp_path / 'one', *options,
         'train_dataloader.batch_size=4')
    printed = call('tools/dist_train.sh', CONFIG, 2, '--work-dir', tmp_path / 'two', *options,
                   'train_dataloader.batch_size=2')
    assert 'effective batch: 2 process(es) x 2 image(s) x 1 accumulation(s) = 4' in printed
    (miou, weights), (other_miou, other_weights) = (figures(tmp_path / name) for name in ('one', 'two'))
    for name, weight in weights.items():
        torch.testing.assert_close(other_weights[name], weight, rtol=0, atol=1e-5, msg=name)
    assert miou == pytest.approx(other_miou, abs=0.01)
    checkpoint = tmp_path / 'one/iter_4.pth'
    one = call(sys.executable, 'tools/test.py', CONFIG, checkpoint, '--work-dir', tmp_path / 'test', *options)
    two = call('tools/dist_test.sh', CONFIG, checkpoint, 2, '--work-dir', tmp_path / 'test', *options)
    assert [line for line in one.splitlines() if line.startswith('mIoU ')] == [
        line for line in two.splitlines() if line.startswith('mIoU ')] != []


@pytest.mark.parametrize(('script', 'usage'), [
    ('dist_train.sh', 'Train with N processes on this machine: tools/dist_train.sh CONFIG N'),
    ('dist_test.sh', 'Test with N processes on this machine: tools/dist_test.sh CONFIG CHECKPOINT N'),
    ('slurm_train.sh', 'Train under Slurm: tools/slurm_train.sh PARTITION NAME CONFIG')])
def test_too_few_arguments_say_what_is_wanted(script, usage):
    done = subprocess.run([str(ROOT / 'tools' / script)], text=True, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(usage)
