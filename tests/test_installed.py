"""The package from its archives, in an environment of its own, with no checkout around."""
import json
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.conftest import ROOT, loader_options, needs_mmpretrain

pytestmark = pytest.mark.slow
CONFIG = 'retinanet_biformer_scenes'
SOURCE = ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE', 'model-index.yml', 'CHANGELOG.md',
          'CITATION.cff', 'CONTRIBUTING.md', 'Makefile', 'mmattn', 'configs', 'tools', 'docs', 'tests', '.ci')


def pip(*args):
    subprocess.run([sys.executable, '-m', 'pip', *map(str, args)], check=True)


@pytest.fixture(scope='module')
def archives(tmp_path_factory):
    """A wheel of the sources, and one of the source distribution."""
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('archives')
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name, **dict(ignore=shutil.ignore_patterns('__pycache__', '.mim'))
             if (ROOT / name).is_dir() else {})
    subprocess.run([sys.executable, '-c', f'from setuptools import build_meta as b; b.build_sdist({str(out)!r})'],
                   cwd=source, check=True)
    sdist, = out.glob('*.tar.gz')
    for name, made_of in dict(wheel=source, sdist=sdist).items():
        pip('wheel', '-q', '--no-deps', '--no-build-isolation', '--no-index', '-w', out / name, made_of)
    return {name: next((out / name).iterdir()) for name in ('wheel', 'sdist')}


@pytest.fixture(scope='module', params=['wheel', 'sdist'])
def installed(request, archives, tmp_path_factory):
    """Run the Python or the command mmattn of an environment that has the package, and what it needs, from a folder
    elsewhere."""
    folder = tmp_path_factory.mktemp(request.param)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder / 'env'], check=True)
    place = sysconfig.get_path('purelib', vars=dict(base=str(folder / 'env')))
    with open(f'{place}/others.pth', 'w') as file:
        file.write(sysconfig.get_path('purelib') + '\n')
    pip('--python', folder / 'env/bin/python', 'install', '-q', '--no-deps', '--no-index', archives[request.param])
    environment = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'TRITON_INTERPRET')}

    def call(program, *args, check=True):
        done = subprocess.run([folder / 'env/bin' / program, *map(str, args)], cwd=folder, text=True,
                              capture_output=True, env={**environment, 'OMP_NUM_THREADS': '1'}, check=False)
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done
    call.folder = folder
    return call


def test_both_archives_install_the_same(archives):
    import zipfile
    wheel, sdist = (zipfile.ZipFile(archives[name]) for name in ('wheel', 'sdist'))
    assert sorted(wheel.namelist()) == sorted(sdist.namelist())
    assert all(wheel.read(name) == sdist.read(name) for name in wheel.namelist() if not name.endswith('RECORD'))


@needs_mmpretrain
def test_every_config_loads_by_its_name(installed):
    done = installed('python', '-c', 'import mmattn; from mmattn.config import config_files, read_config\n'
                     'for name in config_files(): assert "model" in read_config(name), name\n'
                     'print(mmattn.__file__, len(config_files()))')
    path, count = done.stdout.split()[-2:]
    assert path.startswith(str(installed.folder))
    assert int(count) == len([path for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_'])


def test_train_test_and_predict_give_what_the_checkout_gives(installed, run, write_scenes):
    scenes = write_scenes(4, 3)
    options = ['--cfg-options', *loader_options(scenes), 'train_dataloader.batch_size=2',
               *(f'{split}_evaluator.ann_file={scenes}/annotations/instances_validation.json'
                 for split in ('val', 'test'))]
    installed('mmattn', 'train', CONFIG, *options, 'train_cfg.max_epochs=1')
    checkpoint = installed.folder / f'work_dirs/{CONFIG}/epoch_1.pth'
    here = run('tools/test.py', ROOT / f'configs/demo/{CONFIG}.py', checkpoint, '--out', installed.folder / 'here.pkl',
               '--work-dir', installed.folder / 'checkout', *options)
    there = installed('mmattn', 'test', CONFIG, checkpoint, '--out', 'there.pkl', *options)
    figures = [[line for line in done.stdout.splitlines() if line.startswith(('coco/', 'no figures'))]
               for done in (here, there)]
    assert figures[0] == figures[1] != []

    installed('mmattn', 'predict', scenes / 'images/validation', CONFIG, checkpoint, '--out-dir', 'predicted')
    pictures = sorted(path.name for path in (installed.folder / 'predicted').rglob('*.png'))
    assert pictures == sorted(path.name for path in (scenes / 'images/validation').iterdir())
    found = json.loads((installed.folder / 'predicted/predictions.json').read_text())
    with open(installed.folder / 'there.pkl', 'rb') as file:
        tested = {os.path.basename(sample['img_path']): sample['pred_instances'] for sample in pickle.load(file)}
    names = {image['id']: os.path.basename(image['file_name']) for image in found['images']}
    for image, name in names.items():
        boxes = [entry['bbox'] for entry in found['annotations'] if entry['image_id'] == image]
        wanted = tested[name]['bboxes'].clone()
        wanted[:, 2:] -= wanted[:, :2]
        assert len(boxes) == len(wanted)
        assert boxes == pytest.approx(wanted.tolist(), abs=1e-5) if boxes else True


def test_what_is_missing_is_one_line(installed):
    done = installed('mmattn', 'predict', 'none.png', CONFIG, 'random', check=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith('error: ')] == done.stderr.splitlines()[-1:]
    assert 'none.png' in done.stderr
    assert 'Traceback' not in done.stderr
