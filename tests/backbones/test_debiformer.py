import pytest
import torch

from mmattn.backbones import DeBiFormer
from mmattn.layers import BiLevelRoutingAttention, DeformableBiLevelRoutingAttention
from tests.models import small_debi

pytestmark = pytest.mark.filterwarnings('ignore:topk=')


@pytest.mark.parametrize(('arch', 'built'), [('tiny', 21.50), ('small', 44.01), ('base', 95.50)])
def test_sizes_are_those_that_the_authors_code_builds(arch, built):
    with torch.device('meta'):
        model = DeBiFormer(arch, out_norm=False)
    dims = model.stages[-1].blocks[-1].norm1.weight.numel()
    millions = (sum(p.numel() for p in model.parameters()) + 2 * dims + 1000 * (dims + 1)) / 1e6
    assert millions == pytest.approx(built, abs=0.005)


def test_a_letter_stands_for_two_attentions():
    kinds = [[(type(block.attn1), type(block.attn2)) for block in stage.blocks] for stage in small_debi().stages]
    routing, agents = BiLevelRoutingAttention, DeformableBiLevelRoutingAttention
    assert kinds == [[(routing, agents)] * 2, [(routing, agents)], [(routing, agents), (agents, agents)],
                     [(agents, agents)]]


def test_a_block_is_its_formula():
    block = small_debi().stages[2].blocks[0].eval()
    x = torch.randn(2, 16, 9, 7)
    y = x + block.pos_embed1(x)
    y = y + block.attn1(block.norm1(y))
    y = y + block.mlp1(block.norm2(y))
    y = y + block.pos_embed2(y)
    y = y + block.attn2(block.norm3(y))
    torch.testing.assert_close(block(x), y + block.mlp2(block.norm4(y)))


@pytest.mark.parametrize(('options', 'message'), [
    (dict(arch='huge'), "arch='huge' is unknown; choose one of tiny, small, base, or give a list of stages"),
    (dict(arch=[dict(embed_dims=9, num_heads=3, blocks='Q')]), "block 'Q' in blocks='Q' is unknown; use R"),
    (dict(arch=[dict(embed_dims=10, num_heads=3, blocks='R')]), 'embed_dims=10 is not divisible by num_heads=3'),
    (dict(arch=[dict(embed_dims=8, num_heads=1, blocks='D', agent_mlp_ratio=0)]),
     'agent_mlp_ratio=0 leaves no hidden channels of embed_dims=8'),
    (dict(arch=[dict(embed_dims=8, num_heads=1, blocks='D', agent_topk=0)]), 'agent_topk=0 must be at least 1'),
    (dict(arch=[dict(embed_dims=1, num_heads=1, blocks='')]), 'embed_dims=1 must be at least 2'),
    (dict(stem='patch'), "DeBiFormer has no argument stem='patch'"),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small_debi(**options)
