import pytest
import torch

from mmattn.backbones import DATPlusPlus
from tests import filler
from tests.checkpoint.test_convert import authors
from tests.conftest import ROOT
from tests.models import SMALL, small

TOOL = ROOT / 'tools/convert_checkpoint.py'


@pytest.fixture
def files(tmp_path):
    model = small()
    config = tmp_path / 'config.py'
    config.write_text(f"model = dict(backbone=dict(type='mmattn.DAT', pretrain_img_size=160, arch={SMALL!r}))\n")
    return model, tmp_path / 'theirs.pth', tmp_path / 'new' / 'ours.pth', config


def test_a_detector_converts_for_a_config_and_loads(run, files):
    model, source, target, config = files
    state = {f'backbone.{name}': value for name, value in authors(model).items()}
    meta = {'CLASSES': ('cat', 'dog'), 'epoch': 3}
    torch.save({'state_dict': state | {'neck.w': torch.ones(2)}, 'meta': meta}, source)
    done = run(TOOL, 'dat', source, target, '--config', config)
    assert 'renamed backbone.patch_proj.0.weight -> backbone.stem.0.weight' in done.stdout
    assert 'resized backbone.stages.2.blocks.1.attn.rpe_table [4, 7, 7] -> [4, 19, 19]' in done.stdout
    assert done.stdout.splitlines()[-1] == f'wrote {target}'
    written = torch.load(target, weights_only=True)
    assert written['meta'] == {'dataset_meta': {'classes': ('cat', 'dog')}}
    assert torch.equal(written['state_dict']['neck.w'], torch.ones(2))
    resized = small(pretrain_img_size=160, init_cfg=dict(type='Pretrained', checkpoint=str(target)))
    resized.init_weights()
    assert torch.equal(resized.stem[0].weight, model.stem[0].weight)
    assert list(target.parent.iterdir()) == [target]


def test_a_classifier_converts_without_a_config(run, files):
    model, source, target, _ = files
    torch.save({'model': authors(model) | {'cls_head.weight': torch.full((3, 2), 7.)}}, source)
    done = run(TOOL, 'dat', source, target)
    assert 'renamed cls_head.weight -> head.fc.weight' in done.stdout
    state = torch.load(target, weights_only=True)['state_dict']
    assert torch.equal(state.pop('head.fc.weight'), torch.full((3, 2), 7.))
    assert {name: value.shape for name, value in state.items()} == {
        f'backbone.{name}': value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize(('family', 'case', 'theirs', 'ours'), [
    ('biformer', 'biformer_backbone', 'downsample_layers.0.0.weight', 'stem.0.weight'),
    ('crossformer', 'crossformer_backbone_224', 'patch_embed.projs.0.weight', 'stem.0.convs.0.weight')])
def test_a_segmentor_of_the_authors_converts(run, tmp_path, family, case, theirs, ours):
    state = filler.state_dict(filler.load(ROOT / f'tests/data/golden/{case}.json'))
    state = {f'backbone.{key}': value for key, value in state.items() if not key.startswith(('norm.', 'head.'))}
    source, target = tmp_path / 'theirs.pth', tmp_path / 'ours.pth'
    torch.save({'state_dict': state | {'decode_head.w': torch.ones(2)}}, source)
    done = run(TOOL, family, source, target)
    assert f'renamed backbone.{theirs} -> backbone.{ours}' in done.stdout
    written = torch.load(target, weights_only=True)['state_dict']
    assert torch.equal(written[f'backbone.{ours}'], state[f'backbone.{theirs}'])
    assert len(written) == len(state) + 1


def test_what_is_wrong_is_one_line_and_writes_nothing(one_line, files):
    model, source, target, config = files

    def error(*args):
        line = one_line(TOOL, 'dat', source, target, *args)
        assert not target.parent.exists()
        return line

    assert 'theirs.pth does not exist' in error()
    torch.save({'model': model.state_dict()}, source)
    assert 'names are not of this family: stem.0.weight, ' in error()
    torch.save({'model': authors(model), 'run': DATPlusPlus}, source)
    assert 'is refused: it holds mmattn.backbones.dat.DATPlusPlus, and reading that would run code' in error()
    torch.save({'model': {k: v for k, v in authors(model).items() if 'stages.3' not in k}}, source)
    assert 'of another architecture: it lacks' in error('--config', config)
    torch.save({'model': authors(model)}, source)
    config.write_text('train_cfg = dict()')
    assert f'{config} has no model.backbone' in error('--config', config)
    config.write_text("model = dict(backbone=dict(type='mmattn.DAT', arch='huge'))")
    assert "arch='huge' is unknown" in error('--config', config)
    target.parent.mkdir()
    target.touch()
    assert one_line(TOOL, 'dat', source, target) == f'error: {target} exists already; give another name'
    assert target.stat().st_size == 0
