"""train.py and test.py as a user runs them: in a process of their own, on small generated scenes."""
import json
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmattn.checkpoint.files import check_file
from mmattn.checkpoint.reading import read_checkpoint
from mmattn.datasets.checking import check_paths
from mmattn.engine.building import build_model
from mmattn.engine.training import choose_precision, describe_batch
from mmattn.errors import UsageError
from mmattn.registry import MODELS
from tests.checkpoint.test_convert import authors
from tests.checkpoint.test_reading import Trap
from tests.conftest import ROOT, error_line, loader_options

DET, SEG = 'configs/demo/mask-rcnn_dat_scenes.py', 'configs/demo/upernet_dat_scenes.py'
DET_CROSS, SEG_CROSS = 'configs/demo/retinanet_crossformer_scenes.py', 'configs/demo/upernet_crossformer_scenes.py'
DET_BI, SEG_BI = 'configs/demo/retinanet_biformer_scenes.py', 'configs/demo/upernet_biformer_scenes.py'
RTMDET = 'configs/demo/rtmdet-tiny_deformable_scenes.py'
RETINANET = 'configs/dat/retinanet_dat-t_fpn_1x_coco.py'


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=6, validation=4)


def overrides(data, config):
    """Options that point a demo config at a small data set and end it after a few steps."""
    options = loader_options(data)
    if config in (DET, DET_CROSS, DET_BI, RTMDET):
        path = data / 'annotations' / 'instances_validation.json'
        if config != DET:        # a model that has learned nothing predicts nothing above the usual threshold
            options.append('model.test_cfg.score_thr=0')
        return [*options, 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
                f'val_evaluator.ann_file={path}', f'test_evaluator.ann_file={path}']
    return [*options, 'train_dataloader.batch_size=2', 'train_cfg.max_iters=3', 'train_cfg.val_interval=3',
            'default_hooks.checkpoint.interval=3']


@pytest.mark.parametrize(('config', 'metric'), [
    (DET_BI, 'coco/bbox_mAP'), *(
        pytest.param(*case, marks=pytest.mark.slow) for case in (
            (SEG_CROSS, 'mIoU'),
            (DET, 'coco/segm_mAP'), (DET_CROSS, 'coco/bbox_mAP'), (RTMDET, 'coco/bbox_mAP'),
            (SEG, 'mIoU'), (SEG_BI, 'mIoU')))])
def test_train_then_test_from_another_directory(run, data, tmp_path, config, metric):
    options = ['--cfg-options', *overrides(data, config)]
    work = tmp_path / 'work'
    amp = ['--amp'] if config in (DET, DET_BI, SEG_CROSS) else []
    done = run(ROOT / 'tools/train.py', ROOT / config, '--work-dir', work, *amp, *options, cwd=tmp_path)
    assert ("type='mmattn.BFloat16OptimWrapper'" in done.stdout + done.stderr) == bool(amp)
    assert 'effective batch: 1 process(es) x 2 image(s) x 1 accumulation(s) = 2; the recipe assumes 8' in done.stdout
    checkpoint = (work / 'last_checkpoint').read_text()
    predictions = tmp_path / 'predictions.pkl'
    done = run(ROOT / 'tools/test.py', ROOT / config, checkpoint, '--work-dir', work, '--out', predictions,
               '--show-dir', tmp_path / 'pictures', *options, cwd=tmp_path)
    assert re.search(rf'^{metric} -?[0-9.]+$', done.stdout, re.MULTILINE)
    assert len(pickle.loads(predictions.read_bytes())) == 4
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 4
    done = run(ROOT / 'tools/train.py', ROOT / config, '--work-dir', work, '--resume', *amp, *options, cwd=tmp_path)
    assert 'resumed' in done.stdout + done.stderr


def test_a_mean_of_weights_is_tested(run, data, tmp_path):
    config = tmp_path / 'mean.py'
    config.write_text(f"_base_ = {str(ROOT / SEG_BI)!r}\ncustom_hooks = [dict(type='EMAHook')]\n")
    torch.save(dict(state_dict=build_model(Config.fromfile(config)).state_dict()), tmp_path / 'mean.pth')
    done = run('tools/test.py', config, tmp_path / 'mean.pth', '--work-dir', tmp_path / 'work', '--cfg-options',
               *overrides(data, SEG_BI))
    assert re.search(r'^mIoU [0-9.]+$', done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_seed_gives_the_same_bits(run, data, tmp_path):
    trained = []
    for workers in (0, 2):
        work = tmp_path / str(workers)
        run('tools/train.py', SEG, '--work-dir', work, '--deterministic', '--cfg-options', *overrides(data, SEG),
            'randomness.seed=7', f'train_dataloader.num_workers={workers}', 'default_hooks.logger.interval=1')
        scalars = next(work.glob('*/vis_data/scalars.json')).read_text().splitlines()
        trained.append(([json.loads(line)['loss'] for line in scalars[:3]],
                        read_checkpoint(work / 'iter_3.pth')['state_dict']))
    (losses, weights), (other_losses, other_weights) = trained
    assert losses == other_losses
    assert len(set(losses)) == 3
    assert all(torch.equal(weight, other_weights[name]) for name, weight in weights.items())


def test_segmentation_writes_label_maps_and_tta_runs(run, data, tmp_path):
    options = ['--cfg-options', *overrides(data, SEG)]
    run(ROOT / 'tools/train.py', ROOT / SEG, '--work-dir', tmp_path, *options)
    run(ROOT / 'tools/test.py', ROOT / SEG, (tmp_path / 'last_checkpoint').read_text(), '--work-dir', tmp_path,
        '--tta', '--out', tmp_path / 'maps', *options)
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 4


@pytest.mark.slow
def test_the_authors_file_gives_the_same_figures(run, one_line, data, tmp_path):
    options = ['--cfg-options', *overrides(data, SEG)]
    ours = tmp_path / 'ours.pth'
    state = build_model(Config.fromfile(SEG)).state_dict()
    torch.save({'state_dict': state}, ours)
    with torch.device('meta'):
        backbone = MODELS.build(Config.fromfile(SEG).model.backbone)
    backbone.load_state_dict({name.removeprefix('backbone.'): value for name, value in state.items()
                              if name.startswith('backbone.')}, assign=True)
    theirs = {f'backbone.{name}': value for name, value in authors(backbone).items()}
    heads = {name: value for name, value in state.items() if not name.startswith('backbone.')}
    torch.save({'meta': {'CLASSES': ('background',)}, 'state_dict': {**theirs, **heads}}, tmp_path / 'theirs.pth')
    figures = [re.findall(r'^(?:aAcc|mIoU|mAcc) .*$', run('tools/test.py', SEG, path, '--work-dir', tmp_path,
                                                          *options).stdout, re.MULTILINE)
               for path in (ours, tmp_path / 'theirs.pth')]
    assert figures[0] == figures[1] != []
    for part, reason in ((theirs, 'missing keys'), ({**theirs, 'neck.weight': torch.zeros(1), **heads}, 'unexpected'),
                         (authors(backbone), 'unexpected'), ({'backbone.conv1.weight': torch.zeros(1)}, 'family')):
        torch.save({'state_dict': part}, tmp_path / 'other.pth')
        assert reason in one_line('tools/test.py', SEG, tmp_path / 'other.pth', '--work-dir', tmp_path, *options)


def test_missing_files_are_named_with_the_path_that_was_tried(one_line, tmp_path, data):
    tool = 'tools/train.py'
    assert one_line(tool, 'configs/none.py') == f'error: config not found: {ROOT}/configs/none.py'
    line = one_line(tool, RETINANET, '--cfg-options', f'train_dataloader.dataset.data_root={tmp_path}/')
    assert f'data not found: {tmp_path}/annotations/instances_train2017.json (train_dataloader.dataset' in line
    assert '--cfg-options' in line
    line = one_line(tool, DET, '--cfg-options', *overrides(data, DET), f'val_evaluator.ann_file={tmp_path}/none.json')
    assert f'data not found: {tmp_path}/none.json (val_evaluator.ann_file)' in line
    line = one_line('tools/test.py', DET, tmp_path / 'none.pth', '--cfg-options', *overrides(data, DET))
    assert line == f'error: checkpoint not found: {tmp_path}/none.pth'


def test_a_text_file_is_no_checkpoint(one_line, tmp_path, data):
    text = tmp_path / 'weights.pth'
    text.write_text('404: Not Found')
    options = overrides(data, DET)
    line = one_line('tools/test.py', DET, text, '--cfg-options', *options)
    assert line == f"error: checkpoint {text} is not a PyTorch file: it starts with b'404: Not Found'"
    pretrained = [f'model.backbone.init_cfg.checkpoint={text}', 'model.backbone.init_cfg.type=Pretrained']
    for args in (['--resume', text, '--cfg-options', *options], ['--cfg-options', *options, *pretrained]):
        assert 'is not a PyTorch file' in one_line('tools/train.py', DET, '--work-dir', tmp_path, *args)


@pytest.mark.parametrize(('option', 'message'), [
    ("model.backbone.arch=huge", "arch='huge' is unknown; choose one of tiny, small, base"),
    ("model.backbone.arch.0.num_heads=3", 'embed_dims=32 is not divisible by num_heads=3'),
    ("model.backbone.type=mmattn.Nothing", 'mmattn.Nothing'),
])
def test_a_wrong_model_is_one_line(one_line, tmp_path, data, option, message):
    line = one_line('tools/train.py', DET, '--work-dir', tmp_path, '--cfg-options', *overrides(data, DET), option)
    assert message in line


def test_other_wrong_uses_are_one_line(one_line, tmp_path, data):
    weights = tmp_path / 'weights.pth'
    torch.save({}, weights)
    options = ['--cfg-options', *overrides(data, DET)]
    assert 'mmdet merges boxes only' in one_line('tools/test.py', DET, weights, '--tta', *options)
    assert 'name it .pkl' in one_line('tools/test.py', DET, weights, '--out', tmp_path / 'maps', *options)
    assert 'base_batch_size' in one_line('tools/train.py', DET, '--auto-scale-lr', *options,
                                         'auto_scale_lr.base_batch_size=0')
    torch.save({'model': {'layers.0.weight': torch.zeros(1)}}, weights)
    pretrained = [f'model.backbone.init_cfg.checkpoint={weights}', 'model.backbone.init_cfg.type=Pretrained']
    assert '1 of 1 names are not of this family: layers.0.weight' in one_line(
        'tools/train.py', DET, '--work-dir', tmp_path, *options, *pretrained)
    if not torch.cuda.is_available():
        assert '--amp fp16 needs a GPU' in one_line('tools/train.py', DET, '--amp', 'fp16', *options)


def test_code_in_a_checkpoint_is_run_only_where_it_is_trusted(run, tmp_path, data):
    Trap.path = str(tmp_path / 'trapped')
    file = tmp_path / 'file.pth'
    torch.save({'state_dict': {'w': torch.zeros(1)}, 'extra': Trap()}, file)
    options = '--work-dir', tmp_path, '--cfg-options', *overrides(data, SEG)
    done = run('tools/test.py', SEG, file, *options, check=False)
    assert 'is refused: it holds' in error_line(done.returncode, done.stderr)
    assert not (tmp_path / 'trapped').exists()
    done = run('tools/test.py', SEG, file, '--trust-checkpoint', *options, check=False)
    assert 'is not of this model' in error_line(done.returncode, done.stderr)
    assert (tmp_path / 'trapped').exists()


def test_a_checkpoint_cut_short_is_refused(tmp_path):
    whole, cut = tmp_path / 'whole.pth', tmp_path / 'cut.pth'
    torch.save({'a': torch.zeros(1000)}, whole)
    check_file(whole)
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(UsageError, match='is cut short: 2000 bytes'):
        check_file(cut)
    legacy = tmp_path / 'legacy.pth'
    torch.save({}, legacy, _use_new_zipfile_serialization=False)
    check_file(legacy)


def test_datasets_inside_wrappers_are_checked(tmp_path):
    inner = dict(type='CocoDataset', data_root=f'{tmp_path}/', ann_file='none.json')
    wrapped = dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[dict(ann_file=''), inner]))
    with pytest.raises(UsageError, match=r'train_dataloader\.dataset\.dataset\.datasets\.1\.ann_file'):
        check_paths(dict(train_dataloader=dict(dataset=wrapped)), 'train')


@pytest.mark.parametrize(('processes', 'images', 'steps', 'base', 'end'), [
    (8, 2, 1, 16, ' = 16, as the recipe assumes'),
    (1, 2, 1, 16, ' = 2; the recipe assumes 16, the learning rate is NOT scaled; '
                  '--auto-scale-lr would scale it by 0.125'),
    (2, 2, 4, 16, ' = 16, as the recipe assumes'),
    (4, 2, 1, None, ' = 8; the recipe does not say which batch it assumes'),
])
def test_effective_batch(monkeypatch, processes, images, steps, base, end):
    monkeypatch.setenv('WORLD_SIZE', str(processes))
    cfg = SimpleNamespace(launcher='pytorch', train_dataloader=SimpleNamespace(batch_size=images),
                          optim_wrapper=dict(accumulative_counts=steps),
                          get=lambda key, default: dict(base_batch_size=base) if base else default,
                          auto_scale_lr=dict(enable=False))
    line = describe_batch(cfg)
    assert line.startswith(f'effective batch: {processes} process(es) x {images} image(s) x {steps} accumulation(s)')
    assert line.endswith(end)


@pytest.mark.slow
def test_auto_scale_lr_counts_accumulation(run, data, tmp_path):
    done = run('tools/train.py', DET, '--work-dir', tmp_path, '--auto-scale-lr', '--cfg-options', *overrides(data, DET),
               'optim_wrapper.accumulative_counts=2')
    assert 'Scaling the original LR by 0.5' in done.stdout + done.stderr
    assert json.loads((next(tmp_path.glob('*/vis_data/scalars.json'))).read_text().splitlines()[0])


def test_a_missing_library_is_one_line(run):
    without_mmdet = '''
import importlib.util as util, runpy, sys
import mmengine.config.config as reading
find_spec, is_installed = util.find_spec, reading.is_installed
util.find_spec = lambda name, *args: None if name == 'mmdet' else find_spec(name, *args)
reading.is_installed = lambda name: 'mmdet' not in name and is_installed(name)
sys.argv = ['train.py', sys.argv[1], '--cfg-options', 'train_dataloader.dataset.data_root=none/']
runpy.run_path('tools/train.py', run_name='__main__')
'''
    done = run('-c', without_mmdet, RETINANET, check=False)
    assert error_line(done.returncode, done.stderr).endswith(
        "mmattn needs mmdet for this; install 'mmattn[onedl]' (maintained packages) or "
        "'mmattn[openmmlab]' (classic packages).")


@pytest.mark.parametrize('gpu', [False, True])
def test_mixed_precision(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)

    def chosen(wanted, **recipe):
        cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(lr=1)) | recipe))
        said.append(choose_precision(cfg, wanted))
        return cfg.optim_wrapper
    said = []
    recipe = dict(type='mmattn.AmpOptimWrapper', loss_scale=512.)
    bf16, fp32 = (dict(type=kind, optimizer=dict(lr=1)) for kind in ('mmattn.BFloat16OptimWrapper', 'OptimWrapper'))
    assert chosen(None) == fp32
    assert chosen('bf16') == chosen('bf16', **recipe) == bf16
    assert set(said) == {None}
    if gpu:
        assert chosen(None, **recipe) == dict(optimizer=dict(lr=1), **recipe)
        assert chosen(None, type='AmpOptimWrapper').type == 'AmpOptimWrapper'       # MMEngine's own, as it is
        assert chosen('fp16', **recipe) == dict(type='mmattn.AmpOptimWrapper', dtype='float16', loss_scale='dynamic',
                                                optimizer=dict(lr=1))
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Old One')
        with pytest.raises(UsageError, match='--amp bf16: Old One has no bfloat16; use --amp fp16'):
            chosen('bf16')
    else:
        assert chosen(None, **recipe) == fp32
        assert said[-1] == 'no GPU: float32 instead of the mixed precision of the recipe'
        with pytest.raises(UsageError, match=r'--amp fp16 needs a GPU, .* --amp bf16 runs on the CPU'):
            chosen('fp16')
