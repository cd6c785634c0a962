"""visualize.py, in this process, on generated scenes with untrained models."""
from argparse import ArgumentParser

import cv2
import pytest
from mmengine.config import Config

from mmattn.commands import visualize
from mmattn.engine.building import build_runner
from mmattn.errors import UsageError
from tests.conftest import ROOT

DET, SEG = 'configs/demo/mask-rcnn_dat_scenes.py', 'configs/demo/upernet_biformer_scenes.py'
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=1, validation=2)


@pytest.fixture
def call():
    def run(*args):
        parser = ArgumentParser()
        visualize.add_arguments(parser)
        visualize.run(parser.parse_args(list(map(str, args))))
    return run


def test_one_command_draws_everything_beside_another_model_and_a_page(call, data, tmp_path, capsys):
    image = data / 'images/validation/00000.png'
    call(image, ROOT / DET, 'random', '--beside', ROOT / SEG, 'random', '--out-dir', tmp_path, '--query', 30, 40.5,
         '--html', tmp_path / 'page.html')
    folder = tmp_path / '00000'
    names = {path.name for path in folder.iterdir()}
    assert {'grid.png', 'predictions.png', 'points.png'} <= names
    assert any(name.startswith('points_backbone.stages.') for name in names)
    for model in ('mask-rcnn_dat_scenes', 'upernet_biformer_scenes'):
        assert any(name.startswith(f'attention_30_40_{model}_backbone.stages.') for name in names)
    for name in names:
        picture = cv2.imread(str(folder / name))
        assert picture.shape[1] > 500
        assert picture.std() > 10
    assert '<html' in (tmp_path / 'page.html').read_text()[:200]
    assert f'wrote {folder / "grid.png"} and the pictures in it' in capsys.readouterr().out


def test_over_the_ground_truth_with_routes(call, data, tmp_path):
    root = f'test_dataloader.dataset.data_root={data}/'
    call(data / 'images/validation/00001.png', ROOT / SEG, 'random', '--ground-truth', '--layer', 'stages.[02].*attn',
         '--out-dir', tmp_path, '--cfg-options', root)
    names = sorted(path.name for path in (tmp_path / '00001').iterdir())
    assert 'ground_truth.png' in names
    assert sum(name.startswith('routes_') for name in names) == sum(name.startswith('route_counts_') for name in names)
    assert any('stages.0' in name for name in names)
    assert not any('stages.1' in name for name in names)


@pytest.mark.parametrize(('options', 'message'), [
    (('/nowhere.png', ROOT / DET, 'random'), 'image not found: /nowhere.png'),
    ((__file__, ROOT / DET, 'random'), 'test_visualize.py is not an image that OpenCV can read'),
    (('IMAGE', ROOT / DET, '/nowhere.pth'), 'checkpoint not found: /nowhere.pth'),
    (('IMAGE', ROOT / DET, 'random', '--query', '200', '3'),
     r'mask-rcnn_dat_scenes: query \(x, y\) = \(200, 3\) is outside the image, which is 160 pixels wide and 128 high'),
    (('IMAGE', ROOT / DET, 'random', '--layer', 'decoder'),
     "mask-rcnn_dat_scenes: layers='decoder' matches no attention layer of MaskRCNN; it has backbone.stages.0"),
    (('IMAGE', 'IMAGE', ROOT / DET, 'random', '--html', 'x.html'), '--html takes one image, and there are 2'),
    (('IMAGE', ROOT / DET, 'random', '--head', '99', '--out-dir', 'TMP'), 'head=99 is not one of'),
    (('IMAGE', ROOT / DET, 'random', '--ground-truth', '--cfg-options', 'DATA'),
     'ground truth: .*00000.png is not an image of the test data set of mask-rcnn_dat_scenes'),
])
def test_wrong_uses_say_what_is_right(call, data, write_scenes, tmp_path, options, message):
    image = data / 'images/validation/00000.png'
    setting = f'test_dataloader.dataset.data_root={write_scenes(training=0, validation=1)}/'
    options = [{'IMAGE': image, 'TMP': tmp_path, 'DATA': setting}.get(option, option) for option in options]
    with pytest.raises(UsageError, match=message):
        call(*options)


@pytest.mark.parametrize('config', [DET, SEG])
def test_the_hook_draws_during_validation_and_testing(data, tmp_path, config):
    cfg = Config.fromfile(ROOT / config)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
        cfg[f'{split}_dataloader'].dataset.data_root = f'{data}/'
    if config == DET:
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            evaluator.ann_file = str(data / 'annotations/instances_validation.json')
    cfg.custom_hooks = [dict(type='mmattn.AttentionVisualizationHook', count=1, interval=2)]
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    cfg.visualizer.name = str(tmp_path)     # MMEngine keeps one of each name, with the folder of its first run
    runner = build_runner(cfg)
    runner.val()
    picture, = tmp_path.rglob('attention_*.png')
    assert picture.name == 'attention_00000_0.png'
    assert cv2.imread(str(picture)).std() > 10
    picture.unlink()
    runner.test()
    assert picture.exists()
    assert not any(module._forward_hooks for module in runner.model.modules() if 'mmattn' in type(module).__module__)
