import pytest
import torch

from mmattn.backbones import BiFormer
from tests.compare import check_pyramid
from tests.models import small_bi

pytestmark = pytest.mark.filterwarnings('ignore:topk=')


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (31, 2), (37, 53), (97, 131)])
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('options', [dict(mask_padding=True), dict(stem='patch')], ids=str)
def test_any_size_gives_maps_of_the_declared_shapes_and_gradients(size, batch, options):
    check_pyramid(small_bi(norm_eval=True, **options).train(), [8, 16, 16, 24], batch, size)


@pytest.mark.parametrize(('arch', 'published'), [('tiny', 13.1), ('small', 25.5), ('base', 56.8), ('stl', 28.4)])
def test_published_sizes(arch, published):
    with torch.device('meta'):
        model = BiFormer(arch, out_norm=False)
    dims = model.stages[-1].blocks[-1].norm1.weight.numel()
    millions = (sum(p.numel() for p in model.parameters()) + 2 * dims + 1000 * (dims + 1)) / 1e6
    assert millions == pytest.approx(published, rel=0.01)


def test_batch_norms_keep_their_statistics_with_norm_eval():
    for norm_eval in (True, False):
        model = small_bi(norm_eval=norm_eval).train()
        before = model.stem[1].running_mean.clone()
        model(torch.randn(2, 3, 40, 40))
        assert torch.equal(model.stem[1].running_mean, before) == norm_eval
    assert not any(p.requires_grad for p in small_bi(frozen_stages=0).stem.parameters())


@pytest.mark.parametrize(('options', 'message'), [
    (dict(arch='huge'), "arch='huge' is unknown; choose one of tiny, small, base, stl, stl-legacy, or give"),
    (dict(arch=[dict(embed_dims=9, num_heads=3, blocks='Q')]), "block 'Q' in blocks='Q' is unknown; use R"),
    (dict(arch=[dict(embed_dims=10, num_heads=3, blocks='R')]), 'embed_dims=10 is not divisible by num_heads=3'),
    (dict(arch=[dict(embed_dims=9, num_heads=3, blocks='R', mlp='conv')]), "mlp='conv' is unknown; choose one of lin"),
    (dict(stem='conv'), "stem='conv' is unknown; choose one of convolutional, patch"),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small_bi(**options)
