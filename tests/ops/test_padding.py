import pytest
import torch
from torch.nn import functional as F

from mmattn.layers import CrossScaleEmbedding
from mmattn.layers.block import ATTENTIONS, build_attention
from mmattn.ops.padding import content_sizes, in_valid_area

SIZES = [(13, 18), (20, 11), (13, 18), (9, 23)]     # none of the size of the batch
pytestmark = pytest.mark.filterwarnings('ignore:topk=')


def padded(images, size):
    return torch.stack([F.pad(x, (0, size[1] - x.shape[2], 0, size[0] - x.shape[1])) for x in images])


def test_sizes_reach_to_the_last_value_of_any_channel():
    x = torch.zeros(5, 3, 7, 9)
    x[0, 2, 4, 0] = x[0, 0, 1, 5] = -1
    x[1, :, 0, 0] = 1
    x[2, 1, 6, 8] = float('nan')
    x[4] = 1
    assert content_sizes(x) == [(5, 6), (1, 1), (7, 9), (7, 9), (7, 9)]      # the fourth is zero everywhere
    assert content_sizes(x[:0]) == []


@pytest.mark.parametrize('kind', ATTENTIONS)
def test_an_attention_sees_each_image_alone(kind):
    layer = build_attention(8, dict(type=kind, num_heads=2)).double()
    images = [torch.randn(8, *size, dtype=torch.double, requires_grad=True) for size in SIZES]
    x = padded(images, (20, 24))
    outs = in_valid_area(layer, x, SIZES)
    assert outs.shape == x.shape
    for i, (image, (height, width)) in enumerate(zip(images, SIZES)):
        alone = layer(image[None])[0]
        torch.testing.assert_close(outs[i, :, :height, :width], alone)
        assert not outs[i, :, height:].any()
        assert not outs[i, :, :, width:].any()
        wanted = [image, *layer.parameters()]
        weights = torch.randn_like(alone)
        for a, b in zip(torch.autograd.grad((outs[i, :, :height, :width] * weights).sum(), wanted, retain_graph=True),
                        torch.autograd.grad((alone * weights).sum(), wanted)):
            torch.testing.assert_close(a, b)
    differs = (layer(x)[0, :, :13, :18] - outs[0, :, :13, :18]).abs().max() > 1e-4
    assert differs == (kind != 'LocalAttention')        # which completes an image alone with zeros, too


def test_images_of_one_size_run_together_and_whole_ones_as_they_are():
    seen = []

    def layer(x):
        seen.append(tuple(x.shape))
        return x
    x = torch.rand(4, 2, 20, 24)
    in_valid_area(layer, x, SIZES)
    assert seen == [(2, 2, 13, 18), (1, 2, 20, 11), (1, 2, 9, 23)]
    assert in_valid_area(layer, x, [(20, 24)] * 4) is x


def test_several_maps_of_other_sizes():
    layers = [CrossScaleEmbedding(2, 4, kernel_sizes=(2, 4), stride=2),
              CrossScaleEmbedding(2, 8, kernel_sizes=(4, 8), stride=4)]
    x = padded([torch.rand(2, *size) for size in SIZES], (20, 24))
    outs = in_valid_area(lambda x: [layer(x) for layer in layers], x, SIZES, [(10, 12), (5, 6)])
    for layer, out, size in zip(layers, outs, [(4, 4, 10, 12), (4, 8, 5, 6)], strict=True):
        assert out.shape == size
        alone = layer(x[3:, :, :9, :23])[0]
        torch.testing.assert_close(out[3], padded([alone], size[2:])[0])


@pytest.mark.parametrize('sizes', [[(3, 4)], [(3, 4), (3, 6)], [(3, 4), (0, 5)]])
def test_sizes_that_do_not_fit_are_named(sizes):
    with pytest.raises(ValueError, match=r'sizes=.* must be one for each of 2 images, inside \(4, 5\)'):
        in_valid_area(torch.nn.Identity(), torch.rand(2, 1, 4, 5), sizes)
