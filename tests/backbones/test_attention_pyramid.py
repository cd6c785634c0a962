import pytest
import torch
from mmengine.config import Config

from mmattn.backbones import AttentionPyramid
from mmattn.layers import DeformableAttention, LocalAttention, ShiftedWindowAttention
from tests.compare import check_pyramid
from tests.conftest import ROOT

ABLATIONS = sorted((ROOT / 'configs/ablation').glob('*.py'))
SMALL = dict(embed_dims=(12, 24, 48, 96), depths=(2, 2, 3, 2), num_heads=(3, 6, 12, 24))
pytestmark = pytest.mark.filterwarnings('ignore:topk=')


@pytest.mark.parametrize('size', [(1, 1), (31, 2), (97, 131)])
@pytest.mark.parametrize('path', ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_runs_at_any_size(path, size):
    attention = Config.fromfile(path).model.backbone.attention
    check_pyramid(AttentionPyramid(attention, **SMALL).train(), SMALL['embed_dims'], 2, size)


@pytest.mark.parametrize('path', ABLATIONS, ids=lambda path: path.stem)
def test_only_the_attention_differs(path):
    with torch.device('meta'):
        model = AttentionPyramid(Config.fromfile(path).model.backbone.attention)
        base = AttentionPyramid(dict(type='LocalAttention'))
    names = [name for name, _ in base.named_parameters() if '.branches.0.' not in name]
    assert [name for name, _ in model.named_parameters() if '.branches.0.' not in name] == names


def test_attentions_for_all_in_turn_and_by_stage():
    def kinds(attention):
        model = AttentionPyramid(attention, **SMALL)
        return [[type(block.branches[0]) for block in stage.blocks] for stage in model.stages]
    local, shifted = dict(type='LocalAttention'), dict(type='mmattn.ShiftedWindowAttention')
    turns = [[LocalAttention, ShiftedWindowAttention, LocalAttention][:depth] for depth in SMALL['depths']]
    assert kinds(local) == [[LocalAttention] * depth for depth in SMALL['depths']]
    assert kinds([local, shifted]) == turns
    deformable = dict(type='DeformableAttention')
    assert kinds([[local, shifted]] * 3 + [[deformable]]) == [*turns[:3], [DeformableAttention] * 2]


def test_heads_are_the_stage_s_unless_given():
    local = dict(type='LocalAttention')
    model = AttentionPyramid([[local]] * 3 + [[dict(local, num_heads=6)]], **SMALL)
    assert [stage.blocks[0].branches[0].num_heads for stage in model.stages] == [3, 6, 12, 6]


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(attention=[]), r'attention=\[\] has a stage without layers'),
    (dict(attention=[[dict(type='LocalAttention')]] * 3), 'attention is given for 3 stages of 4'),
    (dict(attention=dict(type='LocalAttention'), depths=(2, 2)), r'depths is given for 2 stages of 4: \(2, 2\)'),
    (dict(attention=dict(type='Convolution')), "attention type='Convolution' is unknown; choose one of Attention, "),
    (dict(attention=dict(type='LocalAttention', num_heads=5)), 'embed_dims=96 is not divisible by num_heads=5'),
])
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttentionPyramid(**arguments)


@pytest.mark.parametrize(('embed_dims', 'heads'), [
    ((96, 192, 384, 768), [3, 6, 12, 24]), ((32, 64, 128, 256), [1, 2, 4, 8]), ((8, 31, 100, 97), [1, 1, 2, 1])])
def test_heads_by_themselves_divide_the_channels(embed_dims, heads):
    with torch.device('meta'):
        model = AttentionPyramid(dict(type='LocalAttention'), embed_dims, depths=(1, 1, 1, 1))
    assert [stage.blocks[0].branches[0].num_heads for stage in model.stages] == heads
