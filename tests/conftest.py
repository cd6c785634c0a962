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


@pytest.fixture
def run():
    """Run Python in a process of its own, from the repository root unless told otherwise."""
    def call(*args, cwd=ROOT, env=(), check=True):
        done = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env={**os.environ, **dict(env)}, text=True,
                              capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done
    return call
