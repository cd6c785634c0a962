"""Recorded weights are those of the forward pass: values that hold positions must come out as the recorded keys,
weighted by the recorded weights."""
import math

import pytest
import torch
from torch import nn

from mmattn import layers
from mmattn.layers.attended import keys_of
from mmattn.layers.block import ATTENTIONS

C, SIZE = 16, (14, 21)
EVERY = {
    'Attention': lambda: layers.Attention(C, 2),
    'BiLevelRoutingAttention': lambda: layers.BiLevelRoutingAttention(C, 2, num_windows=7, topk=3, lepe_kernel_size=0),
    'BiLevelRoutingAttention, averaged': lambda: layers.BiLevelRoutingAttention(
        C, 2, num_windows=7, topk=2, lepe_kernel_size=0, kv_sampling='ada_avgpool', kv_size=2),
    'BiLevelRoutingAttention, masked': lambda: layers.BiLevelRoutingAttention(
        C, 2, num_windows=4, topk=5, lepe_kernel_size=0, mask_padding=True),
    'DeformableAttention': lambda: layers.DeformableAttention(C, 4, offset_groups=2, offset_kernel_size=3, stride=2,
                                                              offset_range_factor=-1, convention='dat_pp'),
    'DeformableAttention, log_cpb': lambda: layers.DeformableAttention(C, 2, offset_groups=2, offset_range_factor=-1,
                                                                       position_bias='log_cpb'),
    'DeformableAttention, fixed': lambda: layers.DeformableAttention(C, 2, offset_range_factor=-1,
                                                                     position_bias='fixed'),
    'DeformableAttention, on the grid': lambda: layers.DeformableAttention(C, 2, offsets=False, position_bias='none',
                                                                           offset_range_factor=-1),
    'DeformableBiLevelRoutingAttention': lambda: layers.DeformableBiLevelRoutingAttention(
        C, 4, offset_groups=2, num_windows=7, topk=3, stride=1),
    'DeformableDETRAttention': lambda: layers.DeformableDETRAttention(C, 2, map_size=SIZE),
    'LocalAttention': lambda: layers.LocalAttention(C, 2, window_size=7),
    'LongDistanceAttention': lambda: layers.LongDistanceAttention(C, 2, group_size=3, interval=3),
    'LongDistanceAttention, one group': lambda: layers.LongDistanceAttention(C, 2, group_size=15),
    'NeighborhoodAttention': lambda: layers.NeighborhoodAttention(C, 2, kernel_size=5),
    'NeighborhoodAttention, small map': lambda: layers.NeighborhoodAttention(C, 2, kernel_size=17, pad_small=False),
    'ShiftedWindowAttention': lambda: layers.ShiftedWindowAttention(C, 2, window_size=7),
    'ShortDistanceAttention': lambda: layers.ShortDistanceAttention(C, 2, group_size=5),
    'ShortDistanceAttention, table': lambda: layers.ShortDistanceAttention(C, 2, group_size=5, position_bias='table'),
    'SpatialReductionAttention': lambda: layers.SpatialReductionAttention(C, 2, sr_ratio=7),
}
PIXELS = [(0, 0), (13, 20), (6, 11), (8, 15)]
each_layer = pytest.mark.parametrize('make', EVERY.values(), ids=EVERY)


def values_are_positions(layer):
    """Let the values of a head be the last channels of its half of the input, queries and keys the others, random."""
    heads, dims = layer.num_heads, C // layer.num_heads
    value = torch.zeros(C, C)
    for head in range(heads):
        end = C // 2 if head < heads / 2 else C
        value[head * dims:head * dims + 2, end - 2:end] = torch.eye(2)
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.3)
        if name.endswith('bias'):
            nn.init.zeros_(parameter)
    places = [C // 2 - 2, C // 2 - 1, C - 2, C - 1]
    with torch.no_grad():
        if isinstance(layer, layers.DeformableDETRAttention):       # inside the map
            layer.proj_off.weight *= 0.01
            layer.proj_off.bias *= 0.5
        for name in ('qkv', 'proj_qkv', 'kv', 'proj_v', 'proj', 'proj_out'):
            if hasattr(layer, name):
                weight = getattr(layer, name).weight.flatten(1)
                if name.startswith('proj') and name not in ('proj_v', 'proj_qkv'):
                    weight.copy_(torch.eye(C))
                else:
                    weight[:, places] = 0
                    weight[-C:] = value
        for name in ('q', 'proj_q', 'proj_k'):
            if hasattr(layer, name):
                getattr(layer, name).weight[:, places] = 0
        if isinstance(layer, layers.DeformableBiLevelRoutingAttention):     # agents hold their positions
            layer.norm2 = nn.Identity()
            for parameter in (*layer.proj_agents.parameters(), *layer.mlp.fc2.parameters()):
                parameter.zero_()
        if isinstance(layer, layers.SpatialReductionAttention):     # positions pass through the reduction
            layer.reduction = nn.AvgPool2d(layer.sr_ratio)


@each_layer
def test_weights_and_keys_give_what_the_layer_gives(make):
    layer = make().double().eval()
    values_are_positions(layer)
    content = torch.randn(2, 1, C // 2 - 2, *SIZE, dtype=torch.double)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.double) + 0.5 for n in SIZE), indexing='ij')
    x = torch.cat([t for half in content for t in (half, y[None, None], x[None, None])], 1)
    with torch.no_grad():
        out = layer(x).unflatten(1, (layer.num_heads, -1))[0, :, :2]                        # (h, 2, H, W)
        seen = layer.attended(x, PIXELS)
    assert len(seen.queries) == len(PIXELS)
    for (row, column), (keys, weights) in list(zip(PIXELS, seen.queries))[2 if 'DETR' in type(layer).__name__ else 0:]:
        assert keys.shape == (*weights.shape, 2)
        assert weights.shape[0] == layer.num_heads
        torch.testing.assert_close(weights.sum(-1), torch.ones(layer.num_heads))
        inside = ((keys >= 0) & (keys <= keys.new_tensor(SIZE))).all(-1)                    # padding holds zeros
        expected = (weights[..., None] * keys * inside[..., None]).sum(1)
        torch.testing.assert_close(expected.double(), out[:, :, row, column], rtol=1e-4, atol=1e-4)
        assert weights.std() > 0.05 * weights.mean() or 'DETR' in type(layer).__name__


def test_every_attention_says_what_it_attends_to_and_nothing_else_does():
    speaking = {name for name in layers.__all__
                if isinstance(getattr(layers, name), type) and issubclass(getattr(layers, name), layers.Attends)}
    assert speaking - {'Attends'} == set(ATTENTIONS)
    assert {make().__class__.__name__ for make in EVERY.values()} == set(ATTENTIONS)


@each_layer
def test_no_query_is_an_answer_too(make):
    seen = make().attended(torch.randn(1, C, *SIZE))
    assert seen.queries == []
    assert seen.groups is None or seen.groups.shape == SIZE


def test_keys_of_a_query_by_hand():
    q, k = torch.tensor([[2., 0], [0, 2]]), torch.tensor([[[1., 0], [0, 1], [3, 3]]]).expand(2, -1, -1)
    places = torch.tensor([[0.5, 0.5], [0.5, 1.5], [9.5, 9.5]])
    keys = keys_of(q, k, places, torch.tensor([True, True, False]), scale=1)
    e = math.exp(2)
    torch.testing.assert_close(keys.weights, torch.tensor([[e, 1, 0], [1, e, 0]]) / (e + 1))
    assert torch.equal(keys.positions, places.expand(2, -1, -1))
    biased = keys_of(q, k, places, torch.tensor([[0., 2, -torch.inf], [0, 0, -torch.inf]]), scale=1)
    torch.testing.assert_close(biased.weights, torch.stack([torch.tensor([1., 1, 0]) / 2, keys.weights[1]]))
