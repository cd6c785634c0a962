import os
import runpy
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():     # before Triton is imported: its kernels run on tensors of the CPU
    os.environ.setdefault('TRITON_INTERPRET', '1')

ROOT = Path(__file__).parents[1]
needs_mmpretrain = pytest.mark.skipif(find_spec('mmpretrain') is None, reason='mmpretrain is not installed')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def deterministic():
    """PyTorch is told to use deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def load(path):
    """The module in a file that no package holds, such as those of tools/maintenance."""
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(*args):
    """The command line of Python, or of a shell script, and an environment with this interpreter and these sources."""
    parts = [str(arg) for arg in args]
    environment = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1',
                   'TRITON_INTERPRET': '0'}
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
def run_here(monkeypatch, capsys):
    """Run a tool in this process; its exit status, and what it wrote to stdout and stderr."""
    from mmengine.utils import ManagerMixin

    def forget(kind):
        """MMEngine gives loggers and visualizers of another run again where names are the same."""
        getattr(kind, '_instance_dict', {}).clear()
        for other in kind.__subclasses__():
            forget(other)

    def call(tool, *args):
        forget(ManagerMixin)
        monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, args)])
        capsys.readouterr()
        status = 0
        try:
            runpy.run_path(str(ROOT / tool), run_name='__main__')
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()
    return call


@pytest.fixture
def one_line(run_here):
    """Run a tool that must fail, in this process; its `error_line`."""
    def call(*args):
        status, _, stderr = run_here(*args)
        return error_line(status, stderr)
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
