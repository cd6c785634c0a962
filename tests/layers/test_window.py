import pytest
import torch
from einops import rearrange

from mmattn.errors import ArgumentError
from mmattn.layers import LocalAttention, ShiftedWindowAttention
from mmattn.ops import reference
from mmattn.ops.partition import pad_to_multiple
from tests.compare import assert_same


def by_formula(layer, x):
    """The layer written out: pad, project, attend window by window, project, crop."""
    padded = pad_to_multiple(x.permute(0, 2, 3, 1), layer.window)
    q, k, v = rearrange(layer.proj_qkv(padded), 'b y x (three h d) -> three b h y x d', three=3, h=layer.num_heads)
    table = layer.relative_position_bias_table.view(2 * layer.window[0] - 1, 2 * layer.window[1] - 1, -1)
    out = torch.stack([reference.window_attention(*qkv, table, layer.window, layer.shift_size)
                       for qkv in zip(q, k, v)])
    out = layer.proj_out(rearrange(out, 'b h y x d -> b y x (h d)'))
    return out[:, :x.shape[2], :x.shape[3]].permute(0, 3, 1, 2)


@pytest.mark.parametrize('kind', [LocalAttention, ShiftedWindowAttention])
@pytest.mark.parametrize('size', [(1, 1), (1, 11), (4, 4), (7, 5), (12, 9)])
def test_equals_the_formula_with_gradients(kind, size):
    layer = kind(10, num_heads=2, window_size=4).double()
    torch.nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(2, 10, *size, dtype=torch.double, requires_grad=True)
    assert_same(layer(x), by_formula(layer, x), (x, *layer.parameters()))


def test_shift_is_half_a_window_rounded_up():
    assert ShiftedWindowAttention(8, 2, window_size=7).shift_size == 4
    assert ShiftedWindowAttention(8, 2, window_size=4).shift_size == 2


def test_transposed_input_gives_transposed_output():
    layer = ShiftedWindowAttention(6, 3, window_size=3)
    torch.nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(1, 6, 5, 11)
    out = layer(x)
    with torch.no_grad():
        table = layer.relative_position_bias_table.view(5, 5, 3).transpose(0, 1).reshape(25, 3).clone()
        layer.relative_position_bias_table.copy_(table)
    torch.testing.assert_close(layer(x.transpose(2, 3)).transpose(2, 3), out)


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match='embed_dims=10 is not divisible by num_heads=3'):
        LocalAttention(10, 3)
    with pytest.raises(ArgumentError, match=r'shift_size=7 is outside \[0, window_size=7\)'):
        LocalAttention(8, 2, window_size=7, shift_size=7)


def test_dropout_only_in_training():
    layer = LocalAttention(8, 2, window_size=4, attn_drop_rate=0.5, drop_rate=0.5)
    x = torch.randn(1, 8, 8, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
