import pytest
import torch

from mmattn.backbones import CrossFormer, CrossFormerPlusPlus
from tests.compare import check_pyramid
from tests.models import small_cross


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (31, 2), (37, 53), (97, 131)])
@pytest.mark.parametrize('batch', [1, 3])
def test_any_size_gives_maps_of_the_declared_shapes_and_gradients(size, batch):
    check_pyramid(small_cross().train(), [8, 16, 32, 64], batch, size)


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


def test_big_small_big():
    model = small_cross().eval()
    big, small = torch.randn(1, 3, 150, 170), torch.randn(1, 3, 9, 30)
    with torch.no_grad():
        first = model(big)
        model(small)
        for a, b in zip(model(big), first):
            assert torch.equal(a, b)


def test_images_of_a_batch_do_not_see_each_other():
    model = small_cross().eval()
    x = torch.randn(3, 3, 70, 61)
    for a, b in zip(model(x[1:2]), model(x)):
        torch.testing.assert_close(a, b[1:2], atol=1e-5, rtol=1e-4)


def test_checkpointing_changes_no_gradient():
    plain, saving = small_cross(), small_cross(with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 45, 70)
    for model in (plain.train(), saving.train()):
        sum(out.square().sum() for out in model(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f'{name}: {text}')


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
