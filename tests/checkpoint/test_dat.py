from pathlib import Path

import pytest
import torch

from mmattn.backbones import DAT, DATPlusPlus
from mmattn.checkpoint.convert import convert
from mmattn.checkpoint.dat import rename, translate
from tests import filler

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden'


@pytest.mark.parametrize('name', ['dat_v1_backbone', 'dat_pp_backbone'])
def test_every_name_of_the_authors_model_is_known_and_reached_once(name):
    case = filler.load(GOLDEN / f'{name}.json')
    names = [rename(key) for key in case['params']]
    assert None not in names
    kept = [name for name in names if name]
    assert len(kept) == len(set(kept)) == len(names)
    assert all(rename(key) == '' for key in case['buffers'])
    assert rename('norms.1.norm.weight') == 'norms.1.weight'


@pytest.mark.parametrize('key', ['layers.0.blocks.0.attn.qkv.weight', 'stages.0', 'norms.0.weight', '',
                                 'stages.0.attns.0.sr.weight', 'stages.0.mlps.0.fc1.weight', 'stages.0.proj.weight'])
def test_foreign_names_are_refused(key):
    assert rename(key) is None


@pytest.mark.parametrize(('theirs', 'ours'), [
    ('stages.0.layer_norms.3.norm.bias', 'stages.0.blocks.1.norm2.bias'),
    ('stages.1.layer_scales.2.gamma', 'stages.1.blocks.1.scale1.gamma'),
    ('stages.1.layer_scales.3.weight', 'stages.1.blocks.1.scale2.gamma'),
    ('stages.1.ln_cnvnxt.2.norm.weight', 'stages.1.blocks.2.norm.weight'),
    ('stages.1.attns.2.weight', 'stages.1.blocks.2.conv.weight'),
    ('stages.1.attns.12.rpe_table', 'stages.1.blocks.12.attn.rpe_table'),
    ('stages.1.attns.2.rpe_table.bias', 'stages.1.blocks.2.attn.rpe_conv.bias'),
    ('stages.1.attns.2.rpe_table.2.weight', 'stages.1.blocks.2.attn.rpe_mlp.2.weight'),
    ('stages.1.attns.2.proj_ds.1.norm.weight', 'stages.1.blocks.2.attn.reduction.1.weight'),
    ('stages.2.mlps.3.linear2.0.weight', 'stages.2.blocks.3.mlp.fc2.weight'),
    ('stages.2.mlps.3.dwc.bias', 'stages.2.blocks.3.mlp.conv.bias'),
    ('stages.2.attns.3.attn_mask', ''),
])
def test_names_by_hand(theirs, ours):
    assert rename(theirs) == ours


def test_a_one_by_one_convolution_becomes_a_matrix():
    name, value = translate('stages.0.mlps.0.linear1.0.weight', torch.zeros(8, 2, 1, 1))
    assert (name, value.shape) == ('stages.0.blocks.0.mlp.fc1.weight', (8, 2))
    assert translate('stages.0.attns.0.proj_q.weight', torch.zeros(2, 2, 1, 1))[1].shape == (2, 2, 1, 1)


def published_layout(family, kind):
    """The authors' names and shapes of a full-size model, from the golden case of a small one, with random values.

    The layout of a golden case holds for every block of the same kind; only widths and depths differ.
    """
    dims = dict(dat=(96, 192, 384, 768), dat_pp=(64, 128, 256, 512))[family]
    heads = dict(dat=(3, 6, 12, 24), dat_pp=(2, 4, 8, 16))[family]
    groups = dict(dat=(1, 1, 3, 6), dat_pp=(1, 2, 4, 8))[family]
    stages = dict(dat=('LS', 'LS', 'LDLDLD', 'LD'), dat_pp=('ND', 'NDND', 'ND' * 9, 'DD'))[family]
    state = {}

    def add(prefix, *shape, bias=True):
        state[f'{prefix}.weight'] = torch.randn(shape)
        if bias:
            state[f'{prefix}.bias'] = torch.randn(shape[0])

    if family == 'dat':
        add('patch_proj.0', 96, 3, 4, 4)
        add('patch_proj.1.norm', 96)
    else:
        add('patch_proj.0', 32, 3, 3, 3)
        add('patch_proj.1.norm', 32)
        add('patch_proj.3', 64, 32, 3, 3)
        add('patch_proj.4.norm', 64)
    for i, (dim, head, group, blocks) in enumerate(zip(dims, heads, groups, stages)):
        side, kernel = 56 // 2 ** i, (9, 7, 5, 3)[i]
        for j, block in enumerate(blocks):
            stage = f'stages.{i}'
            attn, mlp = f'{stage}.attns.{j}', f'{stage}.mlps.{j}'
            for n in (2 * j, 2 * j + 1):
                add(f'{stage}.layer_norms.{n}.norm', dim)
            if family == 'dat':
                add(f'{mlp}.chunk.linear1', 4 * dim, dim)
                add(f'{mlp}.chunk.linear2', dim, 4 * dim)
            else:
                add(f'{mlp}.linear1.0', 4 * dim, dim, 1, 1)
                add(f'{mlp}.linear2.0', dim, 4 * dim, 1, 1)
                add(f'{mlp}.dwc', 4 * dim, 1, 3, 3)
                add(f'{stage}.local_perception_units.{j}', dim, 1, 3, 3)
            if block in 'LS':
                add(f'{attn}.proj_qkv', 3 * dim, dim)
                add(f'{attn}.proj_out', dim, dim)
                state[f'{attn}.relative_position_bias_table'] = torch.randn(169, head)
                state[f'{attn}.relative_position_index'] = torch.zeros(49, 49, dtype=torch.long)
                if block == 'S' and kind == 'classifier':
                    state[f'{attn}.attn_mask'] = torch.zeros((side // 7) ** 2, 49, 49)
            elif block == 'N':
                add(f'{attn}.qkv', 3 * dim, dim)
                add(f'{attn}.proj', dim, dim)
                state[f'{attn}.rpb'] = torch.randn(head, 13, 13)
            else:
                width = dim // group
                add(f'{attn}.conv_offset.0', width, 1, kernel, kernel)
                add(f'{attn}.conv_offset.1.norm', width)
                add(f'{attn}.conv_offset.3', 2, width, 1, 1, bias=False)
                for name in ('proj_q', 'proj_k', 'proj_v', 'proj_out'):
                    add(f'{attn}.{name}', dim, dim, 1, 1)
                state[f'{attn}.rpe_table'] = torch.randn(head, 2 * side - 1, 2 * side - 1)
        if i < 3:
            size = 2 if family == 'dat' else 3
            add(f'down_projs.{i}.0', dims[i + 1], dim, size, size, bias=False)
            add(f'down_projs.{i}.1.norm', dims[i + 1])
    if kind == 'classifier':
        add('cls_norm.norm', dims[-1])
        add('cls_head', 1000, dims[-1])
        return state
    for i, dim in enumerate(dims):
        add(f'norms.{i}.norm', dim)
    state = {f'backbone.{key}': value for key, value in state.items()}
    head = dict(detector='roi_head.bbox_head.fc_cls', segmentor='decode_head.conv_seg')[kind]
    return state | {f'{head}.weight': torch.randn(3, 5), f'{head}.bias': torch.randn(3)}


@pytest.mark.parametrize('kind', ['classifier', 'detector', 'segmentor'])
@pytest.mark.parametrize(('family', 'model'), [('dat', DAT), ('dat_pp', DATPlusPlus)])
def test_full_size_checkpoints_convert_with_nothing_missing_and_nothing_unexpected(family, model, kind):
    theirs = published_layout(family, kind)
    result = convert(theirs, translate)
    with torch.device('meta'):
        ours = model('tiny', out_norm=kind != 'classifier').state_dict()
    assert result.prefix == 'backbone.'
    heads = {key: value.shape for key, value in theirs.items() if not key.startswith('backbone.')}
    if kind == 'classifier':
        heads = {f'{ours}.{leaf}': heads[f'{authors}.{leaf}'] for leaf in ('weight', 'bias')
                 for authors, ours in (('cls_norm.norm', 'neck.norm'), ('cls_head', 'head.fc'))}
    assert {key: value.shape for key, value in result.state.items()} == (
        {f'backbone.{key}': value.shape for key, value in ours.items()} | heads)
    assert len(theirs) == len(result.state) + len(result.dropped)
