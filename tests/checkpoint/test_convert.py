import pytest
import torch

from mmattn.backbones import DAT
from mmattn.checkpoint.convert import Conversion, convert, fit
from mmattn.checkpoint.dat import translate
from mmattn.checkpoint.loading import load_backbone
from mmattn.errors import CheckpointError
from tests.models import SMALL, small


def authors(model):
    """The state of one of our models under the authors' names, for the kinds of layers that these tests use."""
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith('stem.'):
            name = name.replace('stem.0', 'patch_proj.0').replace('stem.1', 'patch_proj.1.norm')
        elif name.startswith('downsamples.'):
            name = name.replace('downsamples', 'down_projs').replace('.1.weight', '.1.norm.weight').replace(
                '.1.bias', '.1.norm.bias') if name.count('.') == 3 and name.split('.')[2] == '1' else name.replace(
                'downsamples', 'down_projs')
        elif name.startswith('norms.'):
            name = name.replace('.weight', '.norm.weight').replace('.bias', '.norm.bias')
        else:
            _, stage, _, block, kind, *rest = name.split('.')
            block = int(block)
            if kind in ('norm1', 'norm2'):
                kind, rest = f'layer_norms.{2 * block + int(kind[-1]) - 1}.norm', rest
            elif kind == 'mlp':
                kind, rest = f'mlps.{block}.chunk', [rest[0].replace('fc', 'linear'), *rest[1:]]
            else:
                kind = f'attns.{block}'
                if rest[0] == 'offset':
                    rest = ['conv_offset', rest[1], *(['norm'] if rest[1] == '1' else []), *rest[2:]]
            name = '.'.join(['stages', stage, kind, *rest])
        state[name] = value
    return state


@pytest.fixture
def pair():
    """A model with random weights, and another to load them into."""
    source = small()
    for p in source.parameters():
        torch.nn.init.normal_(p)
    return source, small()


def check_equal(a, b):
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_authors_and_own_files_load(pair, prefix):
    source, target = pair
    head = {'decode_head.conv_seg.weight': torch.zeros(1)} if prefix else {}
    theirs = {prefix + name: value for name, value in authors(source).items()} | head
    result = load_backbone(target, theirs)
    check_equal(source, target)
    assert result.renamed
    own = {prefix + name: value for name, value in source.state_dict().items()} | head
    fresh = small()
    assert not load_backbone(fresh, own).renamed
    check_equal(source, fresh)


def test_init_cfg_takes_the_authors_file(pair, tmp_path):
    source, _ = pair
    torch.save({'model': authors(source), 'epoch': 7}, tmp_path / 'theirs.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'theirs.pth'))
    for settings in (init_cfg, [init_cfg]):
        target = small(init_cfg=settings)
        target.init_weights()
        check_equal(source, target)


def test_a_classifier_lacks_output_norms_and_partial_backbones_leave_stages_out(pair):
    source, _ = pair
    theirs = {name: value for name, value in authors(source).items() if not name.startswith('norms.')}
    theirs |= {'cls_head.weight': torch.zeros(3), 'cls_norm.norm.weight': torch.zeros(3)}
    target = small(out_indices=(0, 2))
    result = load_backbone(target, theirs)
    assert any(name.startswith('backbone.stages.3.') for name in result.dropped)
    assert f'{len(result.state)} renamed, 0 kept, {len(result.dropped)} dropped' in str(result)
    assert torch.equal(target.stages[2].blocks[1].attn.rpe_table, source.stages[2].blocks[1].attn.rpe_table)


def test_tables_of_other_sizes_are_resized(pair):
    source, _ = pair
    with torch.no_grad():
        ramp = torch.linspace(-1, 1, source.stages[2].blocks[1].attn.rpe_table.shape[-1])
        source.stages[2].blocks[1].attn.rpe_table.copy_(ramp.expand_as(source.stages[2].blocks[1].attn.rpe_table))
        source.stages[3].blocks[0].attn.rpe_table.fill_(3)
        source.stages[0].blocks[0].attn.relative_position_bias_table.fill_(5)
    target = DAT([dict(SMALL[0], window_size=5), *SMALL[1:]], pretrain_img_size=160)
    theirs = authors(source)
    swin = 'stages.0.attns.{}.relative_position_bias_table'
    result = load_backbone(target, theirs)
    assert set(result.resized) == {'stages.2.blocks.1.attn.rpe_table', 'stages.3.blocks.0.attn.rpe_table',
                                   *(f'stages.0.blocks.{i}.attn.relative_position_bias_table' for i in (0, 1))}
    assert theirs[swin.format(0)].shape == (25, 2)
    torch.testing.assert_close(target.stages[0].blocks[0].attn.relative_position_bias_table, torch.full((81, 2), 5.))
    torch.testing.assert_close(target.stages[3].blocks[0].attn.rpe_table, torch.full((6, 9, 9), 3.))
    resized = target.stages[2].blocks[1].attn.rpe_table
    assert resized.shape == (4, 19, 19)
    assert (resized[0, 0].diff() > -1e-6).all()
    expected = torch.nn.functional.interpolate(source.stages[2].blocks[1].attn.rpe_table[None], (19, 19),
                                               mode='bicubic')[0]
    assert torch.equal(resized, expected)
    assert '[4, 7, 7] -> [4, 19, 19]' in str(result)


def test_files_of_other_models_are_refused_and_change_nothing(pair):
    source, target = pair
    before = {name: value.clone() for name, value in target.state_dict().items()}
    theirs = authors(source)
    with pytest.raises(CheckpointError, match=r'2 of \d+ names are not of this family: layers\.0\.w, head\.b'):
        load_backbone(target, theirs | {'layers.0.w': torch.zeros(1), 'head.b': torch.zeros(1)})
    many = {f'layer{i}': torch.zeros(1) for i in range(9)}
    with pytest.raises(CheckpointError, match=r'9 of 9 names .*: layer0, layer1, layer2, layer3, layer4, …'):
        load_backbone(target, many)
    lacking = {name: value for name, value in theirs.items() if 'proj_q.bias' not in name}
    with pytest.raises(CheckpointError, match=r'architecture: it lacks 2 parameters: stages\.2\.blocks\.1\.attn'):
        load_backbone(target, lacking)
    deeper = theirs | {'stages.0.layer_norms.4.norm.weight': torch.zeros(8)}
    with pytest.raises(CheckpointError, match=r'it has in addition 1 parameters: stages\.0\.blocks\.2\.norm1\.weight'):
        load_backbone(target, deeper)
    wider = theirs | {'patch_proj.0.bias': torch.zeros(9)}
    with pytest.raises(CheckpointError, match=r'stem\.0\.bias has shape \[9\] in the checkpoint, \[8\] in the model'):
        load_backbone(target, wider)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_offset_networks_and_layer_scales_that_the_authors_never_use_are_dropped():
    arch = [dict(embed_dims=8, num_heads=2, blocks='DX', offsets=False, position_bias='none', layer_scale=0.1)]
    model = DAT(arch, out_indices=(0,))
    state = model.state_dict() | {'stages.0.blocks.0.attn.offset.3.weight': torch.zeros(1),
                                  'stages.0.blocks.1.scale1.gamma': torch.zeros(1)}
    result = Conversion(state)
    fit(result, model)
    assert result.dropped == ['stages.0.blocks.0.attn.offset.3.weight', 'stages.0.blocks.1.scale1.gamma']
    moving = DAT([dict(arch[0], offsets=True)], out_indices=(0,))
    with pytest.raises(CheckpointError, match='lacks'):
        fit(Conversion(model.state_dict()), moving)


def test_the_report_lists_everything():
    result = convert({'patch_proj.0.weight': torch.zeros(1), 'cls_head.bias': torch.zeros(1)}, translate)
    assert str(result).splitlines() == ['renamed patch_proj.0.weight -> backbone.stem.0.weight',
                                        'renamed cls_head.bias -> head.fc.bias',
                                        '2 renamed, 0 kept, 0 dropped, 0 resized']
