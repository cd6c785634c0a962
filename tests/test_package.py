"""What the package promises as a whole: what needs what, and who finds whom."""
import re

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


def test_an_old_package_is_named_with_its_version(monkeypatch):
    monkeypatch.setattr(openmmlab, 'installed_distribution', lambda module: 'mmcv')
    monkeypatch.setattr(openmmlab, 'version', lambda name: '1.7.2')
    with pytest.raises(ImportError, match=r'mmattn needs mmcv 2\.0 or newer, found mmcv 1\.7\.2; upgrade it'):
        openmmlab.require('mmcv')


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmengine'])
def test_backbones_are_found_from_every_scope_without_an_import(run, library):
    code = f'''
from {library}.registry import MODELS
model = MODELS.build(dict(type='mmattn.DAT', arch='tiny'))
print(type(model).__module__, type(model).__name__)
'''
    assert run('-c', code).stdout.strip().splitlines()[-1] == 'mmattn.backbones.dat DAT'


@pytest.mark.parametrize('config', [
    'configs/dat/mask-rcnn_dat-t_fpn_1x_coco.py', 'configs/biformer/biformer-s_fpn_8xb4-80k_ade20k-512x512.py'])
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


def test_the_readmes_examples_print_what_they_say(run):
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        printed = run('-c', block).stdout
        said = ' '.join(re.findall(r'# (.*)', block)).replace('), (', ')\n(')
        assert printed.strip() == said
