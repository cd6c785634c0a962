import pytest
import torch
from torch.nn import functional as F

from mmattn.errors import ArgumentError
from mmattn.layers import CrossScaleEmbedding


def test_channels_are_split_as_published():
    stem = CrossScaleEmbedding(3, 96, kernel_sizes=(4, 8, 16, 32), stride=4)
    between = CrossScaleEmbedding(96, 192, kernel_sizes=(2, 4), stride=2)
    assert [conv.out_channels for conv in stem.convs] == [48, 24, 12, 12]
    assert [conv.out_channels for conv in between.convs] == [96, 96]


@pytest.mark.parametrize('size', [(64, 32), (33, 47), (1, 2), (4, 130)])
def test_every_scale_sees_the_same_places(size):
    m = CrossScaleEmbedding(3, 16, kernel_sizes=(4, 8, 16), stride=4).double()
    x = torch.randn(2, 3, *size, dtype=torch.double)
    out = m(x)
    rows, columns = (-(-side // 4) for side in size)
    assert out.shape == (2, 16, rows, columns)
    y, z = rows // 2, columns // 2      # one token by hand: the image around it, zeros outside
    wide = F.pad(x, (16,) * 4)
    for conv, part in zip(m.convs, out.split([8, 4, 4], 1)):
        kernel = conv.kernel_size[0]
        top, left = (16 + 4 * i - (kernel - 4) // 2 for i in (y, z))
        seen = F.pad(wide, (0, 16, 0, 16))[:, :, top:top + kernel, left:left + kernel]
        torch.testing.assert_close(part[:, :, y, z], (conv.weight * seen[:, None]).sum((2, 3, 4)) + conv.bias)


def test_what_does_not_fit_is_named():
    with pytest.raises(ArgumentError, match=r'kernel_sizes=\(4, 7\) must be the stride 4 or larger by an even number'):
        CrossScaleEmbedding(3, 8, kernel_sizes=(4, 7), stride=4)
    with pytest.raises(ArgumentError, match=r'kernel_sizes=\(2,\) must be the stride 4'):
        CrossScaleEmbedding(3, 8, kernel_sizes=(2,), stride=4)
    with pytest.raises(ArgumentError, match=r'out_channels=12 is not divisible by 8, for the 4 kernel_sizes'):
        CrossScaleEmbedding(3, 12, kernel_sizes=(4, 8, 16, 32), stride=4)
