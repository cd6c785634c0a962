import pytest
import torch

from mmattn.ops import reference
from mmattn.ops.attention import attention, attention_in_blocks
from tests.compare import assert_same


@pytest.mark.parametrize('bias_shape', [None, (1, 3, 5, 7), (2, 3, 5, 7)])
def test_attention_equals_the_formula_with_gradients(bias_shape):
    tensors = [torch.randn(2, 3, n, 11, dtype=torch.double, requires_grad=True) for n in (5, 7, 7)]
    if bias_shape:
        tensors.append(torch.randn(bias_shape, dtype=torch.double, requires_grad=True))
    ours, theirs = attention(*tensors), reference.attention(*tensors)
    assert_same(ours, theirs, tensors)


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


def test_channels_that_do_not_lie_side_by_side_give_the_same():
    q, k, v = (torch.randn(2, 3, 8, n).transpose(2, 3) for n in (5, 7, 7))
    torch.testing.assert_close(attention(q, k, v), reference.attention(q, k, v))


@pytest.mark.parametrize('size', [1, 3, 100])
def test_blocks_of_queries_equal_the_whole_with_gradients(size):
    q, k, v, bias = (torch.randn(2, 3, n, m, dtype=torch.double, requires_grad=True)
                     for n, m in ((5, 11), (7, 11), (7, 11), (5, 7)))
    asked = []

    def rows(queries):
        asked.append(queries)
        return bias[:, :, queries]

    blocks = attention_in_blocks(q, k, v, rows, logits=2 * 3 * 7 * size)
    assert len(asked) == -(-5 // size)
    assert_same(blocks, reference.attention(q, k, v, bias), (q, k, v, bias))
