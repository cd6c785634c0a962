"""Two processes over gloo beside one with the same global batch, as a user starts them."""
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mmattn.checkpoint.reading import read_checkpoint
from tests.conftest import ROOT, command, loader_options

CONFIG = ROOT / 'configs/demo/upernet_dat_scenes.py'
# No dropout, whose units each process drops for itself, and no statistics of a batch, which has half the images.
OPTIONS = ['model.decode_head.norm_cfg.type=GN',
           'model.decode_head.norm_cfg.num_groups=16', 'model.auxiliary_head.norm_cfg.type=GN',
           'model.auxiliary_head.norm_cfg.num_groups=16', 'model.decode_head.dropout_ratio=0.0',
           'model.auxiliary_head.dropout_ratio=0.0', 'train_cfg.max_iters=4', 'train_cfg.val_interval=4',
           'default_hooks.checkpoint.interval=4', 'default_hooks.logger.interval=1']


@pytest.fixture(scope='module')
def data(write_scenes):
    """The validation set does not divide by two."""
    return write_scenes(training=12, validation=5)


def figures(folder):
    """The losses, the last mIoU and the weights of a training."""
    lines = [json.loads(line) for path in sorted(folder.rglob('vis_data/scalars.json'))
             for line in path.read_text().splitlines()]
    losses = {line['step']: line['loss'] for line in lines if 'loss' in line}
    return losses, lines[-1]['mIoU'], read_checkpoint(folder / 'iter_4.pth')['state_dict']


def assert_same_training(one, other):
    (losses, miou, weights), (other_losses, other_miou, other_weights) = figures(one), figures(other)
    assert losses.keys() == other_losses.keys() == {1, 2, 3, 4}
    assert list(losses.values()) == pytest.approx(list(other_losses.values()), abs=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(other_weights[name], weight, rtol=0, atol=1e-5, msg=name)
    difference = max((other_weights[name] - weight).abs().max().item() for name, weight in weights.items())
    print(f'losses {losses} and {other_losses}; largest difference of a weight {difference:.1e}')
    assert miou == pytest.approx(other_miou, abs=0.01)


@pytest.mark.slow
def test_two_processes_train_and_test_as_one_does(run, data, tmp_path):
    options = ['--cfg-options', *OPTIONS, *loader_options(data)]
    run('tools/train.py', CONFIG, '--work-dir', tmp_path / 'one', *options,
        'train_dataloader.batch_size=4')
    done = run('tools/dist_train.sh', CONFIG, 2, '--work-dir', tmp_path / 'two', *options,
               'train_dataloader.batch_size=2')
    assert 'effective batch: 2 process(es) x 2 image(s) x 1 accumulation(s) = 4' in done.stdout
    assert_same_training(tmp_path / 'one', tmp_path / 'two')
    checkpoint = tmp_path / 'one/iter_4.pth'
    one = run('tools/test.py', CONFIG, checkpoint, '--work-dir', tmp_path / 'test', *options)
    two = run('tools/dist_test.sh', CONFIG, checkpoint, 2, '--work-dir', tmp_path / 'test', *options)
    assert [line for line in one.stdout.splitlines() if line.startswith('mIoU ')] == [
        line for line in two.stdout.splitlines() if line.startswith('mIoU ')] != []


@pytest.mark.slow
def test_sharded_parameters_train_alike(run, data, tmp_path):
    options = ['--cfg-options', *OPTIONS, *loader_options(data)]
    sharded = CONFIG.with_name('upernet_dat_scenes_fsdp.py')
    run('tools/train.py', CONFIG, '--work-dir', tmp_path / 'one', *options,
        'train_dataloader.batch_size=4')
    for resume in ([], ['--resume']):
        run('tools/dist_train.sh', sharded, 2, '--work-dir', tmp_path / 'two', *resume, *options,
            'train_dataloader.batch_size=2', 'default_hooks.checkpoint.interval=2')
        if not resume:
            (tmp_path / 'two/iter_4.pth').unlink()
    assert_same_training(tmp_path / 'one', tmp_path / 'two')


@pytest.mark.slow
def test_two_machines_survive_the_loss_of_a_process(run, data, tmp_path):
    options = ['--cfg-options', *OPTIONS, *loader_options(data)]
    run('tools/train.py', CONFIG, '--work-dir', tmp_path / 'one', *options,
        'train_dataloader.batch_size=4')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    torchrun = f'--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{port} --rdzv-id=test --max-restarts=1'
    start = command('tools/dist_train.sh', CONFIG, 1, '--work-dir', tmp_path / 'two', '--resume', *options,
                    'train_dataloader.batch_size=2', 'default_hooks.checkpoint.interval=1')
    start['env']['TORCHRUN'] = torchrun
    agents = []
    for number in range(2):
        with (tmp_path / f'output_{number}.txt').open('w') as output:
            agents.append(subprocess.Popen(**start, cwd=ROOT, stdout=output, stderr=output))
    try:
        while not (tmp_path / 'two/iter_2.pth').exists():
            assert all(agent.poll() is None for agent in agents)
            time.sleep(0.05)
        os.kill(worker_of(agents[1].pid), signal.SIGKILL)
        assert [agent.wait(timeout=300) for agent in agents] == [0, 0]
    finally:
        for agent in agents:
            agent.terminate()       # and it ends its process
            agent.wait(timeout=60)
    assert 'resumes from' in (tmp_path / 'output_0.txt').read_text() + (tmp_path / 'output_1.txt').read_text()
    assert_same_training(tmp_path / 'one', tmp_path / 'two')


def worker_of(agent):
    """Id of the process that trains below one of torchrun."""
    children = Path(f'/proc/{agent}/task/{agent}/children').read_text().split()
    return int(next(child for child in children if 'train.py' in Path(f'/proc/{child}/cmdline').read_text()))


def test_slurm_starts_the_processes_after_a_first_import(run, tmp_path, monkeypatch):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nls "$XDG_CACHE_HOME"/YAPF/*\necho "$@"\n')
    srun.chmod(0o755)
    for name, value in dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', XDG_CACHE_HOME=str(tmp_path), GPUS='2').items():
        monkeypatch.setenv(name, value)
    cache, command = run('tools/slurm_train.sh', 'fast', 'job', CONFIG, '--resume').stdout.rsplit('\n', 2)[:2]
    assert 'PatternGrammar' in cache
    assert '--partition=fast --job-name=job --gres=gpu:2 --ntasks=2 --ntasks-per-node=2 ' in command
    assert command.endswith(f'/train.py {CONFIG} --launcher slurm --resume')


@pytest.mark.parametrize(('script', 'usage'), [
    ('dist_train.sh', 'Train with N processes on this machine: tools/dist_train.sh CONFIG N'),
    ('dist_test.sh', 'Test with N processes on this machine: tools/dist_test.sh CONFIG CHECKPOINT N'),
    ('slurm_train.sh', 'Train under Slurm: tools/slurm_train.sh PARTITION NAME CONFIG')])
def test_too_few_arguments_say_what_is_wanted(run, script, usage):
    done = run(f'tools/{script}', check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(usage)
