import pytest
import torch

from mmattn.ops import reference
from mmattn.ops.attention import attention


@pytest.mark.parametrize('bias_shape', [None, (1, 3, 5, 7), (2, 3, 5, 7)])
def test_attention_equals_the_formula_with_gradients(bias_shape):
    tensors = [torch.randn(2, 3, n, 11, dtype=torch.double, requires_grad=True) for n in (5, 7, 7)]
    if bias_shape:
        tensors.append(torch.randn(bias_shape, dtype=torch.double, requires_grad=True))
    ours, theirs = attention(*tensors), reference.attention(*tensors)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), tensors),
                    torch.autograd.grad((theirs * weights).sum(), tensors)):
        torch.testing.assert_close(a, b)


def test_one_certain_key():
    q, k = torch.tensor([[[[1., 0.]]]]), torch.tensor([[[[100., 0.], [0., 0.]]]])
    v = torch.tensor([[[[3., 5.], [7., 9.]]]])
    torch.testing.assert_close(attention(q, k, v), torch.tensor([[[[3., 5.]]]]))
    torch.testing.assert_close(attention(q, k, v, torch.tensor([[-1e4, 0.]])), torch.tensor([[[[7., 9.]]]]))


def test_dropout_drops_weights():
    q = k = torch.zeros(1, 1, 4, 2)
    v = torch.ones(1, 1, 4, 2)
    assert attention(q, k, v, dropout=0.5).unique().numel() > 1
    torch.testing.assert_close(attention(q, k, v), v)
