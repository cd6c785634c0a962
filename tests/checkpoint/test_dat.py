from pathlib import Path

import pytest

from mmattn.backbones import DAT
from mmattn.checkpoint.dat import rename
from mmattn.layers import DeformableAttention
from tests import filler

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden'


def test_backbone_gives_the_authors_numbers_on_the_authors_weights():
    case = filler.load(GOLDEN / 'dat_v1_backbone.json')
    config = case['config']
    model = DAT([dict(embed_dims=dims, num_heads=heads, blocks=''.join(blocks), offset_groups=max(groups, 1),
                      offset_kernel_size=kernel)
                 for dims, heads, blocks, groups, kernel in zip(config['dims'], config['heads'], config['stage_spec'],
                                                                config['groups'], (9, 7, 5, 3))], out_norm=False)
    weights = {rename(key): value for key, value in filler.state_dict(case).items()}
    weights.pop('')
    model.load_state_dict(weights)
    image = filler.image(case).requires_grad_()
    outs = model.eval()(image)
    sum(out.square().mean() for out in outs).backward()
    errors = filler.check(case, {f'stage{i}': out for i, out in enumerate(outs)} | {'grad_input': image.grad})
    assert errors.pop('grad_input') < 1e-4
    assert max(errors.values()) < 2e-5, errors


def test_attention_gives_the_authors_numbers_on_the_authors_weights():
    case = filler.load(GOLDEN / 'dat_v1_attention.json')
    layer = DeformableAttention(32, num_heads=4, offset_groups=2, table_size=14)
    prefix, ours = 'stages.0.attns.0.', 'stages.0.blocks.0.attn.'
    layer.load_state_dict({rename(prefix + key).removeprefix(ours): value
                           for key, value in filler.state_dict(case).items()})
    x = filler.image(case).requires_grad_()
    points, _ = layer.sampling_points(layer.proj_q(x))
    out = layer(x)
    (out.square().mean() + points.square().mean()).backward()
    errors = filler.check(case, {'out': out, 'points': points, 'grad_input': x.grad})
    assert errors.pop('grad_input') < 1e-4
    assert max(errors.values()) < 2e-5, errors


def test_every_name_of_the_full_model_is_known_and_reached_once():
    case = filler.load(GOLDEN / 'dat_v1_backbone.json')
    names = [rename(key) for key in case['params']]
    assert None not in names
    kept = [name for name in names if name]
    assert len(kept) == len(set(kept)) == len(names) - 4        # cls_norm and cls_head are dropped
    assert all(rename(key) == '' for key in case['buffers'])
    assert rename('norms.1.norm.weight') == 'norms.1.weight'


@pytest.mark.parametrize('key', ['layers.0.blocks.0.attn.qkv.weight', 'stages.0', 'norms.0.weight', ''])
def test_foreign_names_are_refused(key):
    assert rename(key) is None


