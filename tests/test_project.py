"""The project around the package: what it is built from, what it says of itself, how it is checked."""
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml
from mmengine.config import Config
from mmengine.runner import Runner

import mmattn
from mmattn.openmmlab import COMMON_EXTRAS, DISTRIBUTIONS, EXTRAS
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

# What CONTRIBUTING.md lets the reader write.
NEW = {'mmattn/layers/ring.py', 'tests/layers/test_ring.py', 'configs/ablation/ring.py'}
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The package as a wheel, built from the files that are part of it."""
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, source)
    for name in ('mmattn', 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '--no-index',
                    '-w', out, source], check=True)
    path, = out.iterdir()
    return path


def files_below(folder, *left_out):
    """Paths of files, from the root of the project."""
    found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob('*') if path.is_file())
    return {str(path) for path in found if not {'__pycache__', *left_out} & set(path.parts)}


def test_a_wheel_holds_the_package_and_what_mim_looks_for_and_nothing_else(wheel):
    files = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    beside = {*files_below('configs'), *files_below('tools', 'maintenance'), 'model-index.yml'}
    assert files == {*files_below('mmattn', '.mim'), *(f'mmattn/.mim/{name}' for name in beside)}
    assert wheel.name == f'mmattn-{mmattn.__version__}-py3-none-any.whl'


def test_the_page_of_a_wheel_shows_what_can_be_reached_from_there(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata, = (name for name in archive.namelist() if name.endswith('/METADATA'))
    page = archive.read(metadata).decode()
    assert 'Description-Content-Type: text/markdown' in page
    assert '## Which model' in page
    assert '![' not in page
    links = re.findall(r'\]\(([^)]*)\)', page)
    assert len(links) > 5
    assert all(link.startswith('https://') for link in links)


@pytest.mark.slow
def test_a_program_sees_the_types_of_the_installed_package(wheel, tmp_path):
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target',
                    tmp_path / 'site', wheel], check=True)
    shutil.copy(ROOT / 'tests' / 'typed_consumer.py', tmp_path)
    done = subprocess.run([sys.executable, '-m', 'mypy', '--strict', '--cache-dir', tmp_path / 'cache',
                           'typed_consumer.py'], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')},
                          text=True, capture_output=True, check=False)
    assert done.stdout.splitlines() == ['Success: no issues found in 1 source file']


@pytest.mark.parametrize(('extra', 'place'), [
    ('onedl', 0), ('openmmlab', 1), ('pretrain', 0), ('openmmlab-pretrain', 1)])
def test_an_extra_installs_the_versions_that_are_checked(extra, place):
    needed = [''.join(list(distributions.items())[place]) for module, distributions in DISTRIBUTIONS.items()
              if EXTRAS.get(module, COMMON_EXTRAS)[place] == extra]
    assert PROJECT['optional-dependencies'][extra][:len(needed)] == needed


def test_the_version_is_said_once_and_cited():
    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert cited['version'] == mmattn.__version__
    assert PROJECT['dynamic'] == ['version', 'readme']
    assert cited['license'] == PROJECT['license']
    newest = re.search(r'^## \[?([\d.]+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert newest[1] == mmattn.__version__


def test_every_paper_that_the_project_links_is_cited():
    papers = {reference['url'] for reference in yaml.safe_load((ROOT / 'CITATION.cff').read_text())['references']}
    assert papers == set(PROJECT['urls'].values())


def test_the_files_that_contributors_are_sent_to_exist():
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    paths = re.findall(r'`((?:mmattn|tests|tools|configs|docs)/[\w./-]+\.\w+)`|\]\(([\w./-]+)\)', text)
    paths = {code or link for code, link in paths} - NEW
    assert len(paths) > 9
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.fixture
def ci(tmp_path):
    """Run a copy of .ci/run in a folder of its own, with a make that prints the folders of wheels that pip is given."""
    def call(**environment):
        stand_in = tmp_path / 'bin' / 'make'
        stand_in.parent.mkdir()
        stand_in.write_text('#!/bin/sh\necho "$1:$PIP_FIND_LINKS"\n')
        stand_in.chmod(0o755)
        (tmp_path / 'main').mkdir()
        shutil.copytree(ROOT / '.ci', tmp_path / 'main' / '.ci')
        clean = {name: value for name, value in os.environ.items() if name not in ('MMATTN_WHEELS', 'PIP_FIND_LINKS')}
        path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run([tmp_path / 'main' / '.ci' / 'run'], env={**clean, 'PATH': path, **environment}, cwd='/',
                              text=True, capture_output=True, check=False)
    return call


def test_the_check_needs_no_wheels(ci):
    done = ci(PIP_FIND_LINKS='elsewhere')
    assert (done.returncode, done.stdout) == (0, 'lint:elsewhere\ntest:elsewhere\ndocs:elsewhere\n')


def test_the_check_finds_wheels_beside_the_repository(ci, tmp_path):
    wheels = tmp_path / 'shared' / 'wheels'
    wheels.mkdir(parents=True)
    assert ci(PIP_FIND_LINKS='elsewhere').stdout == ''.join(
        f'{what}:elsewhere {wheels}\n' for what in ('lint', 'test', 'docs'))


def test_the_check_takes_wheels_from_where_it_is_told(ci, tmp_path):
    (tmp_path / 'shared' / 'wheels').mkdir(parents=True)
    wheels = tmp_path / 'prepared'
    wheels.mkdir()
    assert ci(MMATTN_WHEELS=str(wheels)).stdout == ''.join(f'{what}: {wheels}\n' for what in ('lint', 'test', 'docs'))


def test_wheels_that_are_not_where_the_check_is_told_stop_it(ci):
    done = ci(MMATTN_WHEELS='/nowhere')
    assert (done.returncode, done.stdout, done.stderr) == (2, '', 'MMATTN_WHEELS=/nowhere is no folder\n')


def hooks(settings):
    """What MMEngine registers for `default_hooks`, without the one that draws, which needs a visualizer."""
    runner = Runner.__new__(Runner)
    runner._hooks = []
    runner.register_default_hooks({name: hook for name, hook in settings.items() if name != 'visualization'})
    return [(type(hook).__name__, {key: value for key, value in vars(hook).items() if isinstance(value, int | str)})
            for hook in runner.hooks]


def test_a_segmentor_is_trained_with_the_hooks_of_mmsegs_own_schedule():
    ours = Config.fromfile(ROOT / 'configs' / 'dat' / 'dat-t_upernet_8xb2-160k_ade20k-512x512.py')
    theirs = Config.fromstring("_base_ = 'mmseg::_base_/schedules/schedule_160k.py'", '.py')
    assert hooks(ours.default_hooks) == hooks(theirs.default_hooks)
    assert ours.default_hooks.visualization.type == theirs.default_hooks.visualization.type
