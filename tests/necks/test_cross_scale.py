import pytest
import torch
from torch.nn import functional as F

from mmattn.necks import CrossScaleNeck
from tests.compare import check_trains


@pytest.mark.parametrize('size', [(1, 1), (13, 9), (32, 48)])
def test_any_size_gives_a_pyramid_that_trains(size):
    neck = CrossScaleNeck([4, 8, 16], 16, num_heads=2, group_size=3, mlp_ratio=2.0, num_outs=4).train()
    sizes = [tuple(-(-side // 2 ** i) for side in size) for i in range(4)]
    maps = [torch.randn(2, c, *s, requires_grad=True) for c, s in zip([4, 8, 16], sizes)]
    outs = neck(maps)
    assert [tuple(out.shape) for out in outs] == [(2, 16, *s) for s in sizes]
    assert all(out.is_contiguous() for out in outs)
    check_trains(outs, [*maps, *neck.parameters()])


def test_a_level_is_the_sum_of_itself_the_finer_and_the_coarser():
    neck = CrossScaleNeck([4, 6, 8], 8, num_heads=2).eval()
    neck.blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    maps = [torch.randn(1, c, 16 // 2 ** i, 24 // 2 ** i) for i, c in enumerate([4, 6, 8])]
    a, b, c = (projection(x) for projection, x in zip(neck.projections, maps))
    first, second, third = neck(maps)
    torch.testing.assert_close(first, a + F.interpolate(b, scale_factor=2))
    torch.testing.assert_close(second, b + neck.embeddings[0](a) + F.interpolate(c, scale_factor=2))
    torch.testing.assert_close(third, c + neck.embeddings[1](b))


def test_odd_levels_as_resnet_gives_them():
    neck = CrossScaleNeck([4, 4], 8, num_heads=2)
    assert [tuple(x.shape[2:]) for x in neck([torch.randn(1, 4, 7, 9), torch.randn(1, 4, 3, 4)])] == [(7, 9), (3, 4)]


@pytest.mark.parametrize(('options', 'message'), [
    (dict(num_outs=1), 'num_outs=1 must be at least 2'),
    (dict(intervals=(8,)), r'intervals=\(8,\) are not one for each of 2 levels'),
    (dict(start_level=1), '^CrossScaleNeck has no argument start_level=1: arguments of a base config stay'),
    (dict(num_out=3), '^CrossScaleNeck has no argument num_out=3: num_out may be meant as num_outs$'),
    (dict(num_heads=3), 'out_channels=16 is not divisible by num_heads=3'),
    (dict(kernel_sizes=(2, 5)), r'kernel_sizes=\(2, 5\) must be the stride 2 or larger by an even number'),
])
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CrossScaleNeck([4, 8], **dict(out_channels=16, num_heads=2) | options)


def test_other_maps_are_named():
    with pytest.raises(ValueError, match=r'in_channels=\(4, 8\), but there are 1 maps'):
        CrossScaleNeck([4, 8], 16, num_heads=2)([torch.zeros(1, 4, 2, 2)])


def test_printing_shows_the_levels():
    assert repr(CrossScaleNeck([4, 8], 16, num_heads=2, num_outs=4)).startswith(
        'CrossScaleNeck(\n  in_channels=(4, 8), num_outs=4\n')
