"""A config for data of one's own, from the folder to the figures of a test."""
import pytest

from mmattn.config import read_config
from mmattn.datasets.checking import check
from mmattn.datasets.scenes import CLASSES
from tests.conftest import loader_options
from tests.datasets.test_voc import write as write_voc


@pytest.fixture(scope='module')
def scenes(write_scenes):
    return write_scenes(training=4, validation=2)


def started(run_here, *args):
    status, out, err = run_here('tools/init_config.py', *args)
    assert status == 0, err
    return out


def test_it_says_what_it_found_and_what_it_wrote(run_here, scenes, tmp_path):
    out = tmp_path / 'mine.py'
    said = started(run_here, 'retinanet_biformer_scenes', '--data', scenes, '--classes', 'star', 'disk', '--epochs', 2,
                   '--batch-size', 2, '--out', out)
    assert said.splitlines() == [
        f'{scenes}: COCO, images: train 4, val 2, test 2, most of 160 x 128 pixels',
        '2 class(es): disk, star', '2 epoch(s) of 2 step(s), learning rate 0.00025',
        f'wrote {out}; next: mmattn check-data {out}']
    status, said, _ = run_here('tools/check_data.py', out, '--out', tmp_path / 'batch.png', '--cfg-options',
                               'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False')
    assert status == 0, said
    assert '0 problem(s)' in said


@pytest.mark.parametrize(('base', 'more'), [
    ('mask-rcnn_dat-t_fpn_1x_coco', ()),
    ('dat-t_upernet_8xb2-160k_ade20k-512x512', ('--classes', 'background', *CLASSES, '--ignore', 0)),
    pytest.param('dat-t_upernet_8xb2-160k_ade20k-512x512', ('--classes', 'nothing', 'background', *CLASSES),
                 marks=pytest.mark.slow)])
def test_what_it_writes_has_no_problems(run_here, scenes, tmp_path, base, more):
    out = tmp_path / 'mine.py'
    started(run_here, base, '--data', scenes, '--out', out, *more)
    found = check(read_config(out, dict([option.split('=') for option in loader_options(scenes) if 'num_w' in option])),
                  tmp_path / 'batch.png')
    lines = [str(finding) for finding in found]
    assert not [line for line in lines if line.startswith('problem')]
    assert any(line.startswith('batch: 2 from ') for line in lines)


@pytest.mark.parametrize(('args', 'message'), [
    (('upernet_dat_scenes', '--data', 'SCENES'), 'error: label maps have no names: give them with --class'),
    (('upernet_dat_scenes', '--data', 'SCENES', '--classes', 'a'), 'error: the label maps in SCENES have the val'),
    (('retinanet_biformer_scenes', '--data', 'SCENES', '--classes', 'dog'), 'error: --classes dog: the data has no'),
    (('retinanet_biformer_scenes', '--data', '/none'), 'error: data not found: /none'),
    (('retinanet_biformer_scene', '--data', 'SCENES'), 'error: config not found: '),
    (('retinanet_biformer_scenes', '--data', 'SCENES', '--checkpoint', '/x.pth'), 'error: checkpoint not found: '),
    (('retinanet_biformer_scenes', '--data', 'SCENES', '--out', 'README.md'), 'error: README.md is there already'),
])
def test_wrong_uses_are_one_line(one_line, scenes, args, message):
    line = one_line('tools/init_config.py', *(str(scenes) if arg == 'SCENES' else arg for arg in args))
    assert line.startswith(message.replace('SCENES', str(scenes)))


@pytest.mark.slow
@pytest.mark.parametrize(('base', 'form', 'figure'), [
    ('mask-rcnn_dat_scenes', 'coco', 'coco/segm_mAP: '), ('retinanet_crossformer_scenes', 'voc', 'coco/bbox_mAP: '),
    ('upernet_biformer_scenes', 'maps', 'mIoU: ')])
def test_from_a_folder_to_a_figure(run, scenes, tmp_path, base, form, figure):
    data = scenes
    if form == 'voc':
        data = tmp_path / 'voc'
        write_voc(data, 6)
        (data / 'ImageSets/Main').mkdir(parents=True)
        (data / 'ImageSets/Main/train.txt').write_text('0\n1\n2\n3\n')
        (data / 'ImageSets/Main/val.txt').write_text('4\n5\n')
    names = ['--classes', 'nothing', *'abcde', '--ignore', 0] if form == 'maps' else []
    run('tools/init_config.py', base, '--data', data, *names, '--batch-size', 2, '--epochs', 1, '--out',
        tmp_path / 'mine.py')
    options = ['--work-dir', tmp_path / 'work', '--cfg-options', *(
        option for option in loader_options(data) if 'data_root' not in option)]
    run('tools/train.py', tmp_path / 'mine.py', *options)
    every = ['model.test_cfg.score_thr=0'] if form == 'voc' else []     # it has learned nothing yet
    done = run('tools/test.py', tmp_path / 'mine.py', (tmp_path / 'work/last_checkpoint').read_text(), *options, *every)
    assert figure in done.stdout


@pytest.mark.slow
def test_fine_tuning_says_what_starts_anew(run, scenes, tmp_path):
    """From a model of five classes to one of two."""
    options = ['--cfg-options', *(option for option in loader_options(scenes) if 'data_root' not in option)]
    fewer = '--classes', 'disk', 'star', '--checkpoint', tmp_path / 'one/epoch_1.pth'
    for name, more in (('one', ()), ('two', fewer)):
        run('tools/init_config.py', 'retinanet_biformer_scenes', '--data', scenes, '--batch-size', 2, '--epochs', 1,
            '--out', tmp_path / f'{name}.py', *more)
        done = run('tools/train.py', tmp_path / f'{name}.py', '--work-dir', tmp_path / name, *options)
    assert 'tensors are taken' in done.stderr + done.stdout
    assert 'start anew: bbox_head.retina_cls' in done.stderr + done.stdout
