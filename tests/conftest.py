import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def command(*args):
    """The command line of Python, or of a shell script, and an environment with this interpreter and these sources."""
    parts = [str(arg) for arg in args]
    environment = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return dict(args=parts if parts[0].endswith('.sh') else [sys.executable, *parts], env=environment)


@pytest.fixture(scope='session')
def run():
    """Run `command` in a process of its own, from the repository root unless told otherwise."""
    def call(*args, cwd=ROOT, check=True):
        done = subprocess.run(**command(*args), cwd=cwd, text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done
    return call


def error_line(status, stderr):
    """The only line that speaks of an error of a tool that must have failed."""
    assert status == 2, stderr[-2000:]
    line, = (line for line in stderr.splitlines() if line.startswith('error: '))
    assert 'Traceback' not in stderr
    return line


@pytest.fixture
def one_line(monkeypatch, capsys):
    """Run a tool that must fail, in this process; its `error_line`."""
    def call(tool, *args):
        monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, args)])
        monkeypatch.setattr(logging, 'raiseExceptions', False)      # of loggers whose stream ended with another test
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / tool), run_name='__main__')
        return error_line(end.value.code, capsys.readouterr().err)
    return call


@pytest.fixture(scope='session')
def write_scenes(tmp_path_factory):
    """Draw so many generated scenes of each split into a new folder."""
    from mmattn.datasets import scenes  # here, so that tests of the layers need no OpenCV

    def call(training, validation):
        root = tmp_path_factory.mktemp('scenes')
        scenes.write(root, {'training': training, 'validation': validation})
        return root
    return call


def loader_options(root):
    """Options that let the data loaders of a demo config read scenes in this process."""
    return [f'{split}_dataloader.{key}' for split in ('train', 'val', 'test')
            for key in (f'dataset.data_root={root}/', 'num_workers=0', 'persistent_workers=False')]
