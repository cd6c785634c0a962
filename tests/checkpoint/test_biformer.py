from pathlib import Path

import pytest
import torch

from mmattn.backbones import BiFormer
from mmattn.checkpoint.biformer import translate
from mmattn.checkpoint.convert import convert
from mmattn.checkpoint.loading import load_backbone
from tests import filler

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden'


@pytest.mark.parametrize('name', ['biformer_backbone', 'biformer_stl_backbone'])
def test_every_name_of_the_authors_model_is_known_and_reached_once(name):
    case = filler.load(GOLDEN / f'{name}.json')
    result = convert(filler.state_dict(case), translate)
    assert not result.dropped
    assert len(result.state) == len(case['params']) + len(case['buffers'])
    behind = {key for key in {**case['params'], **case['buffers']} if key.startswith(('norm.', 'head.'))}
    assert {key for key, name in result.renamed.items() if not name.startswith('backbone.')} == behind


@pytest.mark.parametrize('key', ['layers.0.blocks.0.attn.qkv.weight', 'stages.0.0.attn.rpe_table', 'stem.0.weight',
                                 'stages.0.0.mlp.4.weight', ''])
def test_foreign_names_are_refused(key):
    assert translate(key, torch.zeros(1))[0] is None


@pytest.mark.parametrize(('theirs', 'ours'), [
    ('norm.running_var', 'neck.norm.running_var'), ('head.bias', 'head.fc.bias'),
    ('extra_norms.2.weight', 'norms.2.weight'), ('stages.1.3.gamma2', 'stages.1.blocks.3.scale2.gamma'),
    ('stages.1.3.attn.router.emb.bias', 'stages.1.blocks.3.attn.router.bias'),
    ('stages.2.0.attn.2.weight', 'stages.2.blocks.0.attn.1.weight'),
    ('stages.1.3.mlp.1.dwconv.bias', 'stages.1.blocks.3.mlp.conv.bias'),
    ('stages.0._checkpoint_wrapped_module.1.norm1.bias', 'stages.0.blocks.1.norm1.bias'),
    ('downsample_layers.0._checkpoint_wrapped_module.4.running_var', 'stem.4.running_var'),
])
def test_names_by_hand(theirs, ours):
    assert translate(theirs, torch.zeros(1))[0] == ours


@pytest.mark.parametrize('name', ['biformer_backbone', 'biformer_stl_backbone'])
def test_dense_and_classification_files_load_into_a_model(name):
    case = filler.load(GOLDEN / f'{name}.json')
    stl = 'stl' in name
    arch = [dict(embed_dims=dims, num_heads=dims // 8, blocks='RRRE'[i] * depth, topk=(1, 4, 16, 1)[i],
                 **(dict(pos_kernel_size=0, mlp_ratio=4.0, lepe_of='value', routing=dict(pad='after')) if stl else {}))
            for i, (dims, depth) in enumerate(zip((16, 32, 64, 128), (1, 1, 2, 1)))]
    model = BiFormer(arch, stem='patch' if stl else None)
    state = filler.state_dict(case)
    load_backbone(model, state)
    assert torch.equal(model.stem[0].weight.double(), state['downsample_layers.0.0.weight'].double().float().double())
    dense = {f'backbone.{key}': value for key, value in state.items() if not key.startswith(('norm.', 'head.'))}
    dense |= {f'backbone.extra_norms.{i}.{leaf}': torch.full((16 * 2 ** i,), 3.) for i in range(4)
              for leaf in ('weight', 'bias')} | {'neck.w': torch.zeros(1)}
    load_backbone(model, dense)
    assert model.norms['2'].weight.tolist() == [3] * 64
