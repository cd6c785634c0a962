import pytest
import torch

from mmattn.backbones import DAT, DATPlusPlus
from tests.models import small, small_pp


def test_without_padding_patches_are_whole_or_one():
    model = small(pad_patches=False)
    outs = model(torch.randn(1, 3, 37, 131))
    assert [tuple(out.shape[2:]) for out in outs] == [(9, 32), (4, 16), (2, 8), (1, 4)]
    assert [tuple(out.shape[2:]) for out in model(torch.randn(1, 3, 3, 5))] == [(1, 1)] * 4


@pytest.mark.parametrize(('family', 'arch', 'published'), [
    (DAT, 'tiny', 28.32), (DAT, 'small', 50), (DAT, 'base', 88), (DATPlusPlus, 'tiny', 23.96),
    (DATPlusPlus, 'small', 53), (DATPlusPlus, 'base', 93)])
def test_published_sizes(family, arch, published):
    with torch.device('meta'):
        model = family(arch, out_norm=False)
    classifier = 1001 * model.stages[-1].blocks[-1].norm1.weight.numel() + 1000
    millions = (sum(p.numel() for p in model.parameters()) + classifier) / 1e6
    assert millions == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (0, 1, 2)])
def test_out_indices_choose_maps_and_leave_no_parameter_without_gradient(out_indices):
    model = small(out_indices=out_indices)
    outs = model(torch.randn(2, 3, 50, 60))
    assert [out.shape[1] for out in outs] == [(8, 12, 16, 24)[i] for i in out_indices]
    sum(out.square().sum() for out in outs).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_frozen_stages_neither_train_nor_drop():
    model = small(frozen_stages=2, drop_path_rate=0.5, drop_rate=0.5)
    model.train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split('.')[0] for name in frozen} == {'stem', 'stages', 'downsamples', 'norms'}
    assert not any(name.startswith(('stages.2', 'stages.3', 'downsamples.1', 'downsamples.2', 'norms.2', 'norms.3'))
                   for name in frozen)
    assert not model.stages[1].training
    assert model.stages[2].training
    assert all(p.requires_grad for p in small().parameters())
    assert not any(p.requires_grad for p in small(frozen_stages=4).parameters())


def test_drop_path_rises_from_zero():
    rates = [block.drop_path.rate for stage in small(drop_path_rate=0.25).stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.25])


@pytest.mark.parametrize(('options', 'message'), [
    (dict(arch='huge'), "arch='huge' is unknown; choose one of tiny, small, base, or give a list of stages"),
    (dict(arch=[dict(embed_dims=100, num_heads=3, blocks='L')]), 'embed_dims=100 is not divisible by num_heads=3'),
    (dict(arch=[dict(embed_dims=9, num_heads=3, blocks='LQ')]), "block 'Q' in blocks='LQ' is unknown; use L"),
    (dict(arch=[dict(embed_dims=9, num_heads=3, blocks='L', mlp='conv')]), "mlp='conv' is unknown; choose one of lin"),
    (dict(stem='conv'), "stem='conv' is unknown; choose one of patch, overlapping, convolutional"),
    (dict(convention='v1'), "convention='v1' is unknown; choose one of dat, dat_pp"),
    (dict(out_indices=(4,)), r'out_indices=\(4,\) must be ascending stage numbers from 0 to 3'),
    (dict(out_indices=()), r'out_indices=\(\) must be'),
    (dict(out_indices=(2, 1)), r'out_indices=\(2, 1\) must be'),
    (dict(frozen_stages=5), 'frozen_stages=5 is outside -1 to 4'),
    (dict(drop_path_rate=1.5), 'drop_path_rate=1.5 is outside'),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize('stem', ['patch', 'overlapping', 'convolutional'])
def test_stems_give_the_same_shapes(stem):
    shapes = [tuple(out.shape[2:]) for out in small(stem=stem)(torch.randn(1, 3, 50, 71))]
    assert shapes == [(13, 18), (7, 9), (4, 5), (2, 3)]


def test_low_precision_maps_are_close():
    model = small_pp().eval()
    x = torch.randn(1, 3, 60, 90)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            low = model(x)
    for a, b in zip(low, exact):
        assert ((a - b).norm() / b.norm()).item() < 5e-2
