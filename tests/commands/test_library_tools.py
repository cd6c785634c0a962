"""The libraries' own scripts that docs/analysis.md names, on what our commands write."""
import os
import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmattn.engine.building import build_model
from tests.conftest import ROOT, loader_options

DET, SEG = ROOT / 'configs/demo/retinanet_biformer_scenes.py', ROOT / 'configs/demo/upernet_dat_scenes.py'
pytestmark = pytest.mark.slow


def script(library, name):
    return Path(find_spec(library).submodule_search_locations[0]) / '.mim/tools/analysis_tools' / f'{name}.py'


@pytest.fixture(scope='module')
def tested(run, write_scenes, tmp_path_factory):
    """A folder with the config and the predictions of a test of random weights."""
    os.environ['MPLBACKEND'] = 'Agg'
    root, folder = write_scenes(training=3, validation=3), tmp_path_factory.mktemp('tested')
    file = root / 'annotations/instances_validation.json'
    torch.save(dict(state_dict=build_model(Config.fromfile(DET)).state_dict()), folder / 'random.pth')
    run('tools/test.py', DET, folder / 'random.pth', '--work-dir', folder, '--out', folder / 'found.pkl',
        '--cfg-options', *loader_options(root), f'test_evaluator.ann_file={file}', f'val_evaluator.ann_file={file}',
        'model.test_cfg.score_thr=0')
    return folder


def test_the_best_and_the_worst_images(run, tested, tmp_path):
    run(script('mmdet', 'analyze_results'), tested / DET.name, tested / 'found.pkl', tmp_path, '--topk', 1)
    assert {path.parent.name for path in tmp_path.rglob('*.png')} == {'good', 'bad'}


def test_a_confusion_matrix_of_objects(run, tested, tmp_path):
    run(script('mmdet', 'confusion_matrix'), tested / DET.name, tested / 'found.pkl', tmp_path)
    assert (tmp_path / 'confusion_matrix.png').stat().st_size > 10_000


def test_predictions_are_evaluated_again(run, tested):
    done = run(script('mmdet', 'eval_metric'), tested / DET.name, tested / 'found.pkl')
    assert 'coco/bbox_mAP_50' in done.stdout
    assert len(pickle.loads((tested / 'found.pkl').read_bytes())) == 3


@pytest.mark.parametrize(('library', 'config'), [('mmdet', DET), ('mmseg', SEG)])
def test_the_images_of_training_as_pictures(run, write_scenes, tmp_path, library, config):
    run(script(library, 'browse_dataset'), config, '--output-dir', tmp_path, '--not-show', '--cfg-options',
        *loader_options(write_scenes(training=3, validation=1)))
    assert len(list(tmp_path.glob('*.png'))) == 3
