import os
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


@pytest.fixture
def one_line(run):
    """Run a tool that must fail; its only line on stderr that speaks of an error."""
    def call(*args):
        done = run(*args, check=False)
        assert done.returncode == 2, done.stderr[-2000:]
        lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
        assert len(lines) == 1
        assert 'Traceback' not in done.stderr
        return lines[0]
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
