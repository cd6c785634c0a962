import pytest
import torch

from mmattn.backbones import DeBiFormer
from mmattn.checkpoint.convert import convert
from mmattn.checkpoint.debiformer import translate
from mmattn.checkpoint.loading import load_backbone
from tests import authors, filler
from tests.conftest import ROOT


def test_every_name_of_the_authors_model_is_known_and_reached_once():
    case = filler.load(ROOT / 'tests/data/golden/debiformer_backbone.json')
    result = convert(filler.state_dict(case), translate)
    assert not result.dropped
    assert len(result.state) == len(case['params']) + len(case['buffers'])


@pytest.mark.parametrize('key', ['layers.0.blocks.0.attn.qkv.weight', 'stages.0.0.attn.rpe_table', 'stem.0.weight',
                                 'stages.0.0.mlp3.dwc.weight', 'stages.0.0.attn1.unknown', ''])
def test_foreign_names_are_refused(key):
    assert translate(key, torch.zeros(1))[0] is None


@pytest.mark.parametrize(('theirs', 'ours'), [
    ('extra_norms.2.ln.weight', 'norms.2.weight'), ('norm.running_var', 'neck.norm.running_var'),
    ('head.bias', 'head.fc.bias'), ('downsample_layers.2.1.bias', 'downsamples.1.1.bias'),
    ('stages.1.3.attn1.qkv.qkv.bias', 'stages.1.blocks.3.attn1.qkv.bias'),
    ('stages.1.3.attn2.qkv_conv.qkv.bias', 'stages.1.blocks.3.attn2.qkv.bias'),
    ('stages.1.3.attn2.norm2.bias', 'stages.1.blocks.3.attn2.norm1.bias'),
    ('stages.1.3.attn2.norm.bias', 'stages.1.blocks.3.attn2.norm2.bias'),
    ('stages.3.0.attn1.mlp.linear2.0.bias', 'stages.3.blocks.0.attn1.mlp.fc2.bias'),
])
def test_names_by_hand(theirs, ours):
    assert translate(theirs, torch.zeros(1))[0] == ours


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_a_full_size_file_is_taken_whole(prefix):
    with torch.device('meta'):
        like = DeBiFormer('tiny', out_norm=bool(prefix))
    state = {}
    for ours, value in like.state_dict().items():
        theirs = authors.name_of(ours, 'debiformer')
        convolution = authors.CONVOLUTIONS_OF_LINEAR_MAPS.search(theirs)
        shape = (*value.shape, 1, 1) if convolution else value.shape
        state[prefix + theirs] = torch.zeros(shape, dtype=value.dtype) if 'num_b' in ours else torch.rand(shape)
    behind = {'norm.weight': torch.rand(512), 'head.weight': torch.rand(10, 512)} if not prefix else {
        'decode_head.conv_seg.weight': torch.rand(3, 5)}
    result = convert(state | behind, translate)
    assert not result.dropped
    model = DeBiFormer('tiny', out_norm=bool(prefix))
    load_backbone(model, state | behind)
    for ours, value in model.state_dict().items():
        assert torch.equal(value, state[prefix + authors.name_of(ours, 'debiformer')].view(value.shape)), ours
