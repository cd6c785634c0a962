"""A training that runs into numbers that are not finite, and its last step again."""
import pytest
import torch

from tests.conftest import ROOT, loader_options

DET, SEG = ROOT / 'configs/demo/mask-rcnn_dat_scenes.py', ROOT / 'configs/demo/upernet_dat_scenes.py'


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=8, validation=1)


@pytest.mark.parametrize(('config', 'losses'), [
    (SEG, 'decode.loss_ce, aux.loss_ce'),
    pytest.param(DET, 'loss_rpn_cls, loss_rpn_bbox, loss_cls, loss_bbox, loss_mask', marks=pytest.mark.slow)])
def test_an_exploding_training_stops_and_is_replayed(run, one_line, data, tmp_path, config, losses):
    options = [*loader_options(data), 'train_dataloader.batch_size=2', 'param_scheduler=[]',
               'optim_wrapper.optimizer.lr=1e25']
    if config == DET:
        options.append(f'val_evaluator.ann_file={data}/annotations/instances_validation.json')
    file = tmp_path / 'non_finite_step_2.pth'
    culprit = 'first in backbone.stem.1 (LayerNorm2d), whose inputs are finite'
    assert one_line('tools/train.py', config, '--work-dir', tmp_path, '--cfg-options', *options) == (
        f'error: step 2: {losses} is not finite, {culprit}; what the model was given, its weights and the generators '
        f'are in {file}, for tools/replay.py')
    assert run('tools/replay.py', config, file).stdout.splitlines()[-1] == culprit


def test_another_file_is_refused(one_line, tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    assert one_line('tools/replay.py', SEG, tmp_path / 'weights.pth') == (
        f'error: {tmp_path}/weights.pth holds no call of a model; mmattn.NonFiniteHook writes such files')
