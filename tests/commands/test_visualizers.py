"""Curves in TensorBoard, WandB and MLflow, beside the file that plot-log reads."""
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT, loader_options

SEG = ROOT / 'configs/demo/upernet_dat_scenes.py'
pytestmark = pytest.mark.slow


@pytest.fixture
def train(run, write_scenes, tmp_path):
    """Train three steps with a backend; the file that holds its curves."""
    def call(package, backend, files):
        if find_spec(package) is None:
            pytest.skip(f'{package} is not installed')
        config = tmp_path / 'config.py'
        config.write_text(f"_base_ = {str(SEG)!r}\n"
                          f"visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict({backend})])\n")
        run(ROOT / 'tools/train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', 'train_cfg.max_iters=3',
            'train_cfg.val_interval=3', 'default_hooks.logger.interval=1', 'train_dataloader.batch_size=2',
            *loader_options(write_scenes(training=4, validation=1)), cwd=tmp_path)
        assert len(list(tmp_path.glob('work/*/vis_data/scalars.json'))) == 1
        file, = tmp_path.glob(files)
        return file
    return call


def test_tensorboard(train):
    file = train('tensorboard', "type='TensorboardVisBackend'", 'work/*/vis_data/events.out.tfevents.*')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(file))
    events.Reload()
    assert [event.step for event in events.Scalars('loss')] == [1, 2, 3]
    assert [event.step for event in events.Scalars('mIoU')] == [3]


def test_wandb_without_a_network(train):
    backend = "type='WandbVisBackend', init_kwargs=dict(project='scenes', mode='offline')"
    file = train('wandb', backend, 'work/*/vis_data/wandb/offline-run-*/run-*.wandb')
    assert b'decode.loss_ce' in file.read_bytes()


def test_mlflow_in_a_file(train):
    import sqlite3
    backend = "type='MLflowVisBackend', exp_name='scenes', tracking_uri='sqlite:///mlflow.db'"
    file = train('mlflow', backend, 'mlflow.db')
    with sqlite3.connect(file) as base:
        steps = [step for step, in base.execute("select step from metrics where key = 'loss' order by step")]
    assert steps == [1, 2, 3]
