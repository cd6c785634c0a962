from pathlib import Path

import pytest
import torch

from mmattn.backbones import CrossFormer
from mmattn.checkpoint.convert import convert
from mmattn.checkpoint.crossformer import translate
from mmattn.checkpoint.loading import load_backbone
from tests import filler

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden'


@pytest.mark.parametrize('name', ['crossformer_backbone_224', 'crossformer_pp_backbone'])
def test_every_name_of_the_authors_model_is_known_and_reached_once(name):
    case = filler.load(GOLDEN / f'{name}.json')
    result = convert(filler.state_dict(case), translate)
    assert not result.dropped
    assert len(result.state) == len(case['params'])


@pytest.mark.parametrize('key', ['stages.0.0.attn.qkv.weight', 'layers.0.blocks.0.attn.relative_position_bias_table',
                                 'layers.0.blocks.0.mlp.fc3.weight', 'patch_embed.proj.weight', ''])
def test_foreign_names_are_refused(key):
    assert translate(key, torch.zeros(1))[0] is None


@pytest.mark.parametrize(('theirs', 'ours'), [
    ('layers.1.downsample.reductions.1.weight', 'downsamples.1.1.convs.1.weight'),
    ('layers.2.blocks.5.attn.pos.pos3.2.bias', 'stages.2.blocks.5.attn.position_bias.net.9.bias'),
    ('layers.2.blocks.5.attn.pos.pos1.0.weight', 'stages.2.blocks.5.attn.position_bias.net.1.weight'),
    ('layers.2.blocks.5.ex_conv.weight', 'stages.2.blocks.5.cooling.0.weight'),
    ('layers.0.blocks.0.norm_cpe.bias', 'stages.0.blocks.0.position.norm.bias'),
    ('layers.0.blocks.1.attn_mask', ''), ('layers.0.blocks.1.attn.biases', ''),
    ('head.weight', 'head.fc.weight'), ('norm.bias', 'neck.norm.bias'),
])
def test_names_by_hand(theirs, ours):
    assert translate(theirs, torch.zeros(1))[0] == ours


def test_dense_and_classification_files_load_into_a_model():
    case = filler.load(GOLDEN / 'crossformer_backbone_224.json')
    model = CrossFormer([dict(embed_dims=32 * 2 ** i, num_heads=2 ** i, blocks=blocks, interval=interval)
                         for i, (blocks, interval) in enumerate(zip(('S', 'SL', 'SL', 'SL'), (8, 4, 2, 1)))])
    state = filler.state_dict(case)
    for prefix, extra in (('', {'head.weight': torch.zeros(10, 256), 'norm.weight': torch.ones(256)}),
                          ('backbone.', {'decode_head.w': torch.zeros(1)})):
        torch.nn.init.zeros_(model.stem[0].convs[3].weight)
        load_backbone(model, {prefix + key: value for key, value in state.items()} | extra)
        assert torch.equal(model.stem[0].convs[3].weight, state['patch_embed.projs.3.weight'].float())
