"""Whose fault it was: one line for what a config or a data set has wrong, a traceback for a bug of a user's program."""
import signal
import subprocess
import time

import pytest
import torch
from mmengine.config import Config

from mmattn.engine.building import build_model, config_errors
from mmattn.errors import ArgumentError, UsageError
from mmattn.registry import MODELS
from tests.conftest import ROOT, command, loader_options

DET, SEG = ROOT / 'configs/demo/retinanet_crossformer_scenes.py', ROOT / 'configs/demo/upernet_dat_scenes.py'


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=4, validation=2)


def options(data, config=SEG, *more):
    found = ['--cfg-options', *loader_options(data), 'train_dataloader.batch_size=2', *more]
    if config == DET:
        file = data / 'annotations/instances_validation.json'
        found += [f'{split}_evaluator.ann_file={file}' for split in ('val', 'test')]
    return found


USERS_DATASET = '''
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

@DATASETS.register_module()
class Mine(BaseSegDataset):
    def get_data_info(self, idx):
        {bug}
        return super().get_data_info(idx)
'''


@pytest.mark.parametrize('bug', [
    "raise ValueError('my own bug')",
    pytest.param("raise KeyError('my own bug')", marks=pytest.mark.slow),
    pytest.param("dict(**{'my own bug': 1}, **{'my own bug': 1})", marks=pytest.mark.slow)])
def test_a_bug_in_a_data_set_keeps_its_traceback(run, data, tmp_path, bug):
    (tmp_path / 'mine.py').write_text(USERS_DATASET.format(bug=bug))
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = {str(SEG)!r}\ncustom_imports = dict(imports=['mine'], allow_failed_imports=False)\n"
                      "train_dataloader = dict(dataset=dict(type='Mine'))\n")
    done = run('-c', f'import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom mmattn.__main__ import main\nmain()',
               'train', config, '--work-dir', tmp_path / 'work', *options(data, SEG), check=False)
    assert done.returncode == 1
    assert 'Traceback' in done.stderr
    assert 'mine.py' in done.stderr
    assert 'my own bug' in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith('error: ')]


@pytest.mark.parametrize(('option', 'message'), [
    ('model.decode_head.chanels=3', "unexpected keyword argument 'chanels'"),
    ('train_dataloader.dataset.pipeline.1.reduce=True', "unexpected keyword argument 'reduce'"),
    ('model.decode_head.type=UPerHed', 'UPerHed is not in the'),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('model.backbone.embed_dim=3', 'embed_dim'),
        ('train_dataloader.dataset.data_rot=x', "unexpected keyword argument 'data_rot'"),
        ('default_hooks.logger.intervall=3', "unexpected keyword argument 'intervall'"),
        ('optim_wrapper.optimizer.type=AdamX', "optimizer.type='AdamX' is not registered; Adam"))),
])
def test_a_misspelt_config_is_one_line(one_line, data, tmp_path, option, message):
    line = one_line('tools/train.py', SEG, '--work-dir', tmp_path, *options(data, SEG, option))
    assert message in line


def test_errors_of_a_config_and_others():
    with pytest.raises(UsageError, match='heads=3'), config_errors():
        MODELS.build(dict(type='mmattn.Attention', embed_dims=8, num_heads=3))
    with pytest.raises(UsageError, match="unexpected keyword argument 'head'"), config_errors():
        MODELS.build(dict(type='mmattn.Attention', embed_dims=8, num_heads=2, head=3))
    with pytest.raises(UsageError, match='Atention is not in the'), config_errors():
        MODELS.build(dict(type='mmattn.Atention', embed_dims=8, num_heads=2))
    layer = MODELS.build(dict(type='mmattn.Attention', embed_dims=8, num_heads=2))
    with pytest.raises(ArgumentError, match='x has the shape'), config_errors():       # of a program that runs it
        layer(torch.rand(1, 3, 5, 5))
    for error in (TypeError("f() got an unexpected keyword argument 'x'"), KeyError('x'), ImportError('x'),
                  ValueError('x'), ArgumentError('x=3 must be odd')):
        with pytest.raises(type(error)) as caught, config_errors():
            raise error
        assert caught.value is error


@pytest.mark.parametrize(('config', 'option', 'message'), [
    (SEG, 'model.auxiliary_head.num_classes=7',
     'model.auxiliary_head.num_classes=7: the data set has 6 classes, set 6'),
    (DET, 'model.bbox_head.num_classes=80', 'model.bbox_head.num_classes=80: the data set has 5 classes, set 5'),
    (DET, "train_dataloader.dataset.metainfo.classes=['square','disk','triangle','star','cross']",
     'train: metainfo.classes are in another order than the categories of'),
    (DET, "val_dataloader.dataset.metainfo.classes=['disk','square']",
     'val: metainfo.classes are 2 (disk, square), those of the first split 5'),
])
def test_what_would_train_wrong_without_a_word(one_line, data, tmp_path, config, option, message):
    assert message in one_line('tools/train.py', config, '--work-dir', tmp_path, *options(data, config, option))


def test_an_evaluator_of_other_images(one_line, data, tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    file = data / 'annotations/instances_training.json'
    line = one_line('tools/test.py', DET, tmp_path / 'weights.pth', *options(data, DET),
                    f'test_evaluator.ann_file={file}')
    assert f'test: test_evaluator.ann_file is {file}, but the data set reads' in line
    assert line.endswith(', and they have not the same boxes')
    copy = tmp_path / 'copy.json'
    copy.write_text((data / 'annotations/instances_validation.json').read_text())
    line = one_line('tools/test.py', DET, tmp_path / 'weights.pth', *options(data, DET),
                    f'test_evaluator.ann_file={copy}')
    assert 'is not of this model' in line       # a copy of the same images is as good


def untrained(config, path):
    torch.save({'state_dict': build_model(Config.fromfile(config)).state_dict()}, path)
    return path


def test_wrapped_data_sets_and_lists_of_evaluators_are_tested(run, data, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f'''_base_ = {str(SEG)!r}
_inner = {{{{_base_.test_dataloader.dataset}}}}
test_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[_inner, _inner]))
test_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU'])]
''')
    roots = [f'test_dataloader.dataset.datasets.{i}.data_root={data}/' for i in range(2)]
    done = run('tools/test.py', config, untrained(SEG, tmp_path / 'weights.pth'), '--tta', '--out', tmp_path / 'maps',
               '--work-dir', tmp_path / 'work', '--cfg-options', *roots, 'test_dataloader.num_workers=0',
               'test_dataloader.persistent_workers=False')
    assert 'mIoU ' in done.stdout
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 2


def test_steps_of_a_pipeline_may_be_classes(data, tmp_path):
    from mmcv.transforms import LoadAnnotations, Resize

    from mmattn.inference import Inferencer
    from mmattn.measuring.points import build_datasets
    cfg = Config.fromfile(SEG)
    cfg.test_dataloader.dataset.data_root = f'{data}/'
    for step in cfg.test_dataloader.dataset.pipeline:
        step.type = {'LoadAnnotations': LoadAnnotations, 'Resize': Resize}.get(step.type, step.type)
    batch = Inferencer(cfg, 'random').batch([data / 'images/validation/00000.png'])
    assert batch['inputs'][0].shape[0] == 3
    assert 'gt_sem_seg' not in batch['data_samples'][0]
    from mmengine.registry import DefaultScope
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert 'gt_sem_seg' not in build_datasets(cfg, 'test')[0][0]['data_samples']


def test_a_training_that_is_interrupted_says_how_it_goes_on(data, tmp_path):
    start = command('tools/train.py', SEG, '--work-dir', tmp_path, *options(
        data, SEG, 'default_hooks.checkpoint.interval=1', 'train_cfg.max_iters=500', 'train_cfg.val_interval=500'))
    heard = dict(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))       # ignored below some shells
    with subprocess.Popen(**start, **heard, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True) as process:
        while process.poll() is None and not (tmp_path / 'iter_2.pth').exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            stderr = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    last = max(tmp_path.glob('iter_*.pth'), key=lambda path: int(path.stem[5:]))
    assert stderr.splitlines()[-1] == f'stopped; the same command with --resume goes on from {last}'
    assert 'Traceback' not in stderr
