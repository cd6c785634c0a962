"""What the package promises as a whole: what needs what, and who finds whom."""
import re
from importlib.metadata import PackageNotFoundError

import pytest

from mmattn import openmmlab
from tests.conftest import ROOT

WITHOUT_OPENMMLAB = '''
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'torchvision', 'timm'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name.split('.')[0])
sys.meta_path.insert(0, Block())
'''


def test_importing_the_package_needs_only_python(run):
    assert 'torch' not in run('-c', 'import mmattn, sys; print(*sys.modules)').stdout.split()


def test_ops_and_layers_need_torch_and_einops_alone(run):
    code = WITHOUT_OPENMMLAB + '''
import torch, mmattn.ops.deformable, mmattn.ops.partition
from mmattn.layers import DeformableAttention
print(tuple(DeformableAttention(96, num_heads=3, offset_groups=3)(torch.rand(2, 96, 20, 31)).shape))
'''
    assert run('-c', code).stdout.strip() == '(2, 96, 20, 31)'


@pytest.mark.parametrize('module', ['mmattn.registry', 'mmattn.backbones'])
def test_a_missing_package_is_one_sentence_that_says_what_to_install(run, module):
    done = run('-c', 'import sys; sys.modules["mmengine"] = None; import importlib.util as u; f = u.find_spec\n'
               'u.find_spec = lambda n, *a: None if n == "mmengine" else f(n, *a)\n'
               f'import {module}', check=False)
    assert done.returncode
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: mmattn needs mmengine for this; install 'mmattn[onedl]' (maintained packages) or "
        "'mmattn[openmmlab]' (classic packages).")


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these versions of distributions are installed, and no others."""
    def pretend(**versions):
        known = {name.replace('_', '-'): value for name, value in versions.items()}

        def version(name):
            if name not in known:
                raise PackageNotFoundError(name)
            return known[name]
        monkeypatch.setattr(openmmlab, 'version', version)
    return pretend


@pytest.mark.parametrize(('module', 'distribution', 'version', 'advice'), [
    ('mmengine', 'mmengine', '0.10.6', "mmattn needs mmengine>=0.10.7, found 0.10.6; install 'mmattn[openmmlab]'."),
    ('mmengine', 'mmengine', '0.9.9', "mmattn needs mmengine>=0.10.7, found 0.9.9; install 'mmattn[openmmlab]'."),
    ('mmcv', 'mmcv', '2.2.0', "mmattn needs mmcv>=2.1,<2.2, found 2.2.0; install 'mmattn[openmmlab]'."),
    ('mmcv', 'onedl-mmcv', '2.3.6rc1', "mmattn needs onedl-mmcv>=2.3.6, found 2.3.6rc1; install 'mmattn[onedl]'."),
    ('mmdet', 'mmdet', '3.2.0', "mmattn needs mmdet>=3.3, found 3.2.0; install 'mmattn[openmmlab]'."),
    ('mmseg', 'onedl-mmsegmentation', '1.4.1',
     "mmattn needs onedl-mmsegmentation>=1.4.2, found 1.4.1; install 'mmattn[onedl]'."),
])
def test_a_version_that_does_not_work_is_named(installed, module, distribution, version, advice):
    installed(**{distribution: version})
    with pytest.raises(ImportError, match=f'^{re.escape(advice)}$'):
        openmmlab.require(module)


@pytest.mark.parametrize(('module', 'distribution', 'version'), [
    ('mmengine', 'mmengine', '0.10.7'), ('mmengine', 'onedl-mmengine', '0.11.0'), ('mmcv', 'mmcv', '2.1.0+cu118'),
    ('mmcv', 'onedl-mmcv', '2.3.10'), ('mmseg', 'mmsegmentation', '1.2.2'), ('mmdet', 'onedl-mmdetection', '4.0.0b1')])
def test_versions_that_work_pass(installed, module, distribution, version):
    installed(**{distribution: version})
    assert openmmlab.installed_distribution(module) == distribution
    openmmlab.require(module)


def test_a_checkout_on_the_path_has_no_version_to_check(installed):
    installed()
    assert openmmlab.installed_distribution('mmdet') is None
    openmmlab.require('mmengine', 'mmcv', 'mmdet', 'mmseg')


@pytest.mark.parametrize(('scope', 'modules'), [
    ('mmdet', ('mmengine', 'mmcv', 'mmdet')), ('mmseg', ('mmengine', 'mmcv', 'mmseg')), ('mmattn', ('mmengine',)),
    (None, ('mmengine',))])
def test_a_config_needs_the_packages_of_its_scope(monkeypatch, scope, modules):
    asked = []
    monkeypatch.setattr(openmmlab, 'find_spec', lambda module: asked.append(module))
    with pytest.raises(ImportError, match=f"^mmattn needs {' and '.join(modules)} for this; install "):
        openmmlab.require_for(scope)
    assert tuple(asked) == modules


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmengine'])
def test_backbones_are_found_from_every_scope_without_an_import(run, library):
    code = f'''
from {library}.registry import MODELS
model = MODELS.build(dict(type='mmattn.DAT', arch='tiny'))
print(type(model).__module__, type(model).__name__)
'''
    assert run('-c', code).stdout.strip().splitlines()[-1] == 'mmattn.backbones.dat DAT'


@pytest.mark.parametrize('config', [
    pytest.param('configs/dat/mask-rcnn_dat-t_fpn_1x_coco.py', marks=pytest.mark.slow),
    'configs/biformer/biformer-s_fpn_8xb4-80k_ade20k-512x512.py'])
def test_a_config_is_read_and_built_without_an_import(run, config, tmp_path):
    code = f'''
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
cfg = Config.fromfile({str(ROOT / config)!r})
init_default_scope(cfg.default_scope)
from importlib import import_module
with torch.device('meta'):
    model = import_module(f"{{cfg.default_scope}}.registry").MODELS.build(cfg.model)
print(type(model.backbone).__module__)
'''
    assert run('-c', code, cwd=tmp_path).stdout.strip().splitlines()[-1].startswith('mmattn.backbones.')


@pytest.mark.parametrize(('config', 'kind'), [
    pytest.param('retinanet_biformer_scenes', 'RetinaNet', marks=pytest.mark.slow),
    ('upernet_crossformer_scenes', 'EncoderDecoder')])
def test_the_hub_of_mmengine_builds_a_model(run, config, kind, tmp_path):
    code = f'''
import mmattn.registry
from mmengine.hub import get_config, get_model
assert get_config('mmattn::demo/{config}.py').model.type == '{kind}'
print(type(get_model('mmattn::demo/{config}.py')).__name__)
'''
    assert run('-c', code, cwd=tmp_path).stdout.strip().splitlines()[-1] == kind


def test_all_modules_are_registered_as_the_libraries_do_it(run):
    code = '''
from mmattn.utils import register_all_modules
from mmengine.registry import MODELS, DefaultScope
register_all_modules()
assert DefaultScope.get_current_instance() is None
register_all_modules(init_default_scope=True)
print(type(MODELS.build(dict(type='DAT', arch='tiny'))).__name__)
'''
    assert run('-c', code).stdout.strip() == 'DAT'


def test_the_readmes_examples_print_what_they_say(run):
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        printed = run('-c', block).stdout
        said = '\n'.join(re.findall(r'# (.*)', block)).replace('), (', ')\n(')
        assert printed.strip() == said
