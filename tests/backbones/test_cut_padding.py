"""What an image gives does not depend on its neighbours in a padded batch with `cut_padding`."""
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from mmattn.backbones import AttentionPyramid, CrossFormerPlusPlus
from tests.models import SMALL_CROSS, small, small_bi, small_cross, small_debi, small_pp

BACKBONES = pytest.mark.parametrize('build', [
    small, partial(small, pad_patches=False), partial(small, stem='overlapping'), small_pp, small_cross,
    partial(CrossFormerPlusPlus, SMALL_CROSS), small_bi, small_debi,
    partial(AttentionPyramid, dict(type='DeformableAttention'), (12, 24, 48, 96)),
], ids=['DAT', 'DAT, cut patches', 'DAT, overlapping', 'DAT++', 'CrossFormer', 'CrossFormer++', 'BiFormer',
        'DeBiFormer', 'AttentionPyramid'])
SIZES = [(61, 90), (97, 54), (70, 115)]
WHOLE = 128, 128
pytestmark = pytest.mark.filterwarnings('ignore:topk=')


@pytest.fixture
def images():
    return [torch.randn(1, 3, *size) for size in SIZES]


def batch(images):
    return torch.cat([F.pad(x, (0, WHOLE[1] - x.shape[3], 0, WHOLE[0] - x.shape[2])) for x in images])


def valid(maps, i, like):
    """The area of image i in maps of a batch."""
    return [x[i:i + 1, :, :alone.shape[2], :alone.shape[3]] for x, alone in zip(maps, like, strict=True)]


@BACKBONES
def test_an_image_is_the_same_alone_and_in_a_batch(build, images):
    model, plain = build(cut_padding=True).eval(), build().eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        outs, usual = model(batch(images)), plain(batch(images))
        assert [x.shape for x in outs] == [x.shape for x in usual]
        assert all(x.is_contiguous() for x in outs)
        for i, image in enumerate(images):
            alone = plain(image)
            for a, b, c in zip(valid(outs, i, alone), alone, valid(usual, i, alone)):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
                assert (c - b).abs().max() > 1e-3       # without the option
            for x, area in zip(outs, alone):
                assert not x[i, :, area.shape[2]:].any()
                assert not x[i, :, :, area.shape[3]:].any()


@BACKBONES
def test_gradients_are_those_of_an_image_alone(build, images):
    model = build(cut_padding=True, norm_eval=True).double().train()
    alone, together = images[1].double().requires_grad_(), batch(images).double().requires_grad_()
    outs = model(alone)

    def gradients(maps, x):
        return torch.autograd.grad(sum(out.square().sum() for out in maps), [x, *model.parameters()])
    expected, found = gradients(outs, alone), gradients(valid(model(together), 1, outs), together)
    torch.testing.assert_close(found[0], batch([torch.zeros_like(alone), expected[0], torch.zeros_like(alone)]))
    for a, b in zip(found[1:], expected[1:]):
        torch.testing.assert_close(a, b)


def test_batch_norms_in_training_see_one_size_at_a_time(images):
    model = small_bi(cut_padding=True).train()
    before = model.stem[1].num_batches_tracked.clone()
    model(batch(images))
    assert model.stem[1].num_batches_tracked - before == len(SIZES)


def test_an_image_of_zeros_is_whole():
    model, plain = small(cut_padding=True).eval(), small().eval()
    plain.load_state_dict(model.state_dict())
    x = torch.zeros(2, 3, 40, 52)
    for a, b in zip(model(x), plain(x)):
        assert torch.equal(a, b)
        assert a.any()
