import pytest
import torch

from mmattn.backbones import CrossFormer, CrossFormerPlusPlus
from tests.models import small_cross


@pytest.mark.parametrize(('family', 'arch', 'published'), [
    (CrossFormer, 'tiny', 27.8), (CrossFormer, 'small', 30.7), (CrossFormer, 'base', 52.0),
    (CrossFormer, 'large', 92.0), (CrossFormerPlusPlus, 'small', 23.3), (CrossFormerPlusPlus, 'base', 52.0),
    (CrossFormerPlusPlus, 'large', 92.0)])
def test_published_sizes(family, arch, published):
    with torch.device('meta'):
        model = family(arch)
    dims = model.stages[-1].blocks[-1].norm1.weight.numel()
    millions = (sum(p.numel() for p in model.parameters()) + 2 * dims + 1000 * (dims + 1)) / 1e6
    assert millions == pytest.approx(published, rel=0.01)


def test_blocks_alternate_and_cool_as_published():
    with torch.device('meta'):
        model = CrossFormerPlusPlus('small')
    stage = model.stages[2].blocks
    assert [type(block.attn).__name__[:4] for block in stage] == ['Shor', 'Long'] * 9
    assert [i for i, block in enumerate(stage) if isinstance(block.cooling, torch.nn.Sequential)] == [2, 5, 8, 11, 14]
    assert [stage.blocks[1].attn.group_size for stage in model.stages] == [4, 4, 14, 7]
    assert [stage.blocks[1].attn.interval for stage in model.stages] == [4, 2, 1, 1]
    with torch.device('meta'):
        dense = CrossFormerPlusPlus('small', group_sizes=(7, 7, 7, 7), adaptive_interval=True)
    assert {stage.blocks[1].attn.group_size for stage in dense.stages} == {7}
    assert all(stage.blocks[1].attn.adaptive_interval for stage in dense.stages)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(arch='huge'), "arch='huge' is unknown; choose one of tiny, small, base, large, or give a list of stages"),
    (dict(group_sizes=(7, 7)), r'group_size is given for 2 stages of 4: \(7, 7\)'),
    (dict(arch=[dict(embed_dims=8, num_heads=2, blocks='SD')]), "block 'D' in blocks='SD' is unknown; use S"),
    (dict(arch=[dict(embed_dims=16, num_heads=3, blocks='S')]), 'embed_dims=16 is not divisible by num_heads=3'),
    (dict(stem_kernel_sizes=(3,)), r'kernel_sizes=\(3,\) must be the stride 4 or larger by an even number'),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small_cross(**options)
