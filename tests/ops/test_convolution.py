import pytest
import torch

from mmattn.ops import reference
from mmattn.ops.convolution import IMPLEMENTATIONS, centred_convolution
from mmattn.ops.dispatch import Implementation, for_comparison
from tests.compare import assert_same


@pytest.mark.parametrize(('kernel', 'stride'), [(1, 1), (5, 1), (2, 2), (4, 2), (10, 2), (4, 4), (16, 4), (32, 4)])
def test_equals_the_strided_convolution_with_gradients(kernel, stride):
    x = torch.randn(2, 3, 3 * stride, 5 * stride, dtype=torch.double, requires_grad=True)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.double, requires_grad=True)
    bias = torch.randn(4, dtype=torch.double, requires_grad=True)
    assert_same(centred_convolution(x, weight, bias, stride), reference.centred_convolution(x, weight, bias, stride),
                (x, weight, bias))


def test_backend_can_be_forced(monkeypatch):
    args = torch.randn(1, 3, 4, 4), torch.randn(4, 3, 6, 6), torch.randn(4), 2
    plain = Implementation(lambda *args: 'plain', reservations=for_comparison)
    monkeypatch.setitem(IMPLEMENTATIONS.rows, 'reference', plain)
    assert centred_convolution(*args, backend='reference') == 'plain'
    monkeypatch.setenv('MMATTN_CENTRED_CONVOLUTION', 'reference')
    assert centred_convolution(*args) == 'plain'
    with pytest.raises(ValueError, match="backend='fft' is unknown; choose one of patches, reference"):
        centred_convolution(*args, backend='fft')
