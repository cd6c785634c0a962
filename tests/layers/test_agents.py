import warnings

import pytest
import torch
from torch.nn import functional as F

from mmattn.errors import ArgumentError
from mmattn.layers import DeformableBiLevelRoutingAttention
from mmattn.ops.grid import key_grid, query_grid
from tests.compare import assert_same, check_trains

pytestmark = pytest.mark.filterwarnings('ignore:topk=')


def layer(**options):
    return DeformableBiLevelRoutingAttention(8, **dict(
        num_heads=4, offset_groups=2, num_windows=3, topk=2, stride=2, lepe_kernel_size=3, mlp_ratio=1.5,
        table_size=(5, 4)) | options)


def trained(m):
    """With weights that make points move, biases count and windows differ."""
    for name, p in m.named_parameters():
        torch.nn.init.normal_(p, std=0.5)
        if name.startswith(('norm', 'offset.1')) and name.endswith('weight'):
            torch.nn.init.uniform_(p, 0.5, 1.5)
    return m


def normalised(layer_norm, x):
    """Over the last axis."""
    return F.layer_norm(x, x.shape[-1:], layer_norm.weight, layer_norm.bias, layer_norm.eps)


def read(x, y, z):
    """The vectors of a map (C, H, W) at a place in pixels, bilinearly; zero outside."""
    total = 0
    for row, share in ((y.floor(), 1 - (y - y.floor())), (y.floor() + 1, y - y.floor())):
        for column, part in ((z.floor(), 1 - (z - z.floor())), (z.floor() + 1, z - z.floor())):
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                total = total + share * part * x[:, int(row), int(column)]
    return total if isinstance(total, torch.Tensor) else x.new_zeros(len(x))


def by_formula(m, x):
    """An image, an agent and a pixel at a time."""
    return torch.stack([of_image(m, image) for image in x])


def of_image(m, x):
    n, heads, groups, s, dims = m.num_windows, m.num_heads, m.offset_groups, m.stride, len(x)
    (height, width), scale = x.shape[1:], dims ** -0.5
    x = F.pad(x, (0, -width % n, 0, -height % n))
    h, w = x.shape[1:]
    q, k, v = m.qkv(x.permute(1, 2, 0)).chunk(3, -1)                                # (h, w, C)
    # agents: a point each and group, what the map holds there, and the encoding of where they are
    rows, columns = -(-h // s), -(-w // s)
    offsets = []
    for group in q.chunk(groups, -1):
        conv = m.offset[0]
        moved = F.conv2d(group.permute(2, 0, 1)[None], conv.weight, None, s, conv.padding, groups=dims // groups)[0]
        hidden = F.gelu(normalised(m.offset[1], moved.permute(1, 2, 0)))
        offsets.append(hidden @ m.offset[3].weight.flatten())
    lepe = F.conv2d(v.permute(2, 0, 1)[None], m.lepe.weight, m.lepe.bias, s, m.lepe.padding, groups=dims)[0]
    references = key_grid((rows, columns), 'dat').to(x.dtype)
    points = [[[(references[i, j] + offset[i, j]).clamp(-1, 1) for j in range(columns)] for i in range(rows)]
              for offset in offsets]
    sampled = [[torch.cat([read(part, (points[g][i][j][0] + 1) / 2 * (h - 1), (points[g][i][j][1] + 1) / 2 * (w - 1))
                           for g, part in enumerate(x.chunk(groups))]) for j in range(columns)] for i in range(rows)]
    sampled = torch.stack([torch.stack(row) for row in sampled])
    points = torch.stack([torch.stack([torch.stack(row) for row in group]) for group in points])
    fill = (0, 0, 0, -columns % n, 0, -rows % n)
    sampled, lepe = F.pad(sampled, fill), F.pad(lepe.permute(1, 2, 0), fill)
    points = torch.stack([F.pad(group, fill) for group in points])
    # windows of agents choose windows of pixels
    queries = sampled @ m.proj_q.weight.T + m.proj_q.bias

    def windows(t):
        tall, wide = t.shape[0] // n, t.shape[1] // n
        return [t[y * tall:(y + 1) * tall, z * wide:(z + 1) * wide].flatten(0, 1) for y in range(n) for z in range(n)]

    def attend(query, key, value, bias=None):
        out = []
        for head in range(heads):
            part = slice(head * dims // heads, (head + 1) * dims // heads)
            logits = query[:, part] @ key[:, part].T * scale
            out.append((logits if bias is None else logits + bias[head]).softmax(-1) @ value[:, part])
        return torch.cat(out, -1)

    keys, values = windows(k), windows(v)
    found = []
    for query in windows(queries):
        fit = torch.stack([query.mean(0) @ key.mean(0) for key in keys])
        chosen = fit.topk(min(m.topk, n * n)).indices
        found.append(attend(query, torch.cat([keys[i] for i in chosen]), torch.cat([values[i] for i in chosen])))
    tall, wide = sampled.shape[0] // n, sampled.shape[1] // n
    found = torch.stack(found).view(n, n, tall, wide, dims).transpose(1, 2).reshape(sampled.shape)
    agents = sampled + (found + lepe) @ m.proj_agents.weight.T + m.proj_agents.bias
    hidden = normalised(m.norm1, agents) @ m.mlp.fc1.weight.T + m.mlp.fc1.bias
    conv = F.conv2d(hidden.permute(2, 0, 1)[None], m.mlp.conv.weight, m.mlp.conv.bias, padding=1,
                    groups=hidden.shape[-1])[0].permute(1, 2, 0)
    agents = agents + F.gelu(hidden + conv) @ m.mlp.fc2.weight.T + m.mlp.fc2.bias
    agents = normalised(m.norm2, agents).flatten(0, 1)
    # pixels attend to agents
    key, value = agents @ m.proj_k.weight.T + m.proj_k.bias, agents @ m.proj_v.weight.T + m.proj_v.bias
    size = [(side - 1) / 2 for side in m.rpe_table.shape[1:]]
    pixels = query_grid((h, w), 'dat_pp').to(x.dtype)
    out = []
    for y in range(height):
        for z in range(width):
            bias = []
            for head in range(heads):
                places = points[head * groups // heads].flatten(0, 1)
                bias.append(torch.stack([read(m.rpe_table[head, None], *(
                    ((pixels[y, z, axis] - place[axis]) / 2 + 1) * size[axis] for axis in range(2)))[0]
                    for place in places]))
            out.append(attend(q[y, z][None], key, value, torch.stack(bias)[:, None])[0])
    out = torch.stack(out) @ m.proj_out.weight.T + m.proj_out.bias
    return out.T.view(dims, height, width)


@pytest.mark.parametrize(('size', 'options'), [
    ((3, 5), dict()), ((1, 1), dict()), ((4, 7), dict(topk=20, offset_groups=4)),
    ((7, 5), dict(stride=1, num_windows=2, topk=1)), ((5, 8), dict(stride=3, offset_kernel_size=5, offset_groups=1))],
    ids=str)
def test_equals_the_formula_with_gradients(size, options):
    m = trained(layer(**options).double())
    x = torch.randn(2, 8, *size, dtype=torch.double, requires_grad=True)
    assert_same(m(x), by_formula(m, x), (x, *m.parameters()))


@pytest.mark.parametrize('size', [(1, 1), (2, 9), (13, 6), (24, 31)])
def test_any_size_trains(size):
    m = layer()
    x = torch.randn(2, 8, *size, requires_grad=True)
    out = m(x)
    assert out.shape == x.shape
    # what is added to every logit of a query changes nothing
    check_trains([out], [x, *(p for name, p in m.named_parameters() if name != 'proj_k.bias')])


def test_agents_of_padding_are_at_the_middle_and_take_part():
    m = trained(layer(num_windows=4, stride=2)).eval()
    agents = m.agents(torch.randn(1, 8, 9, 9))          # 12 x 12 pixels, 6 x 6 agents, completed to 8 x 8
    assert agents.points.shape == (1, 2, 8, 8, 2)
    assert (agents.points[:, :, 6:] == 0).all()
    assert (agents.points[:, :, :, 6:] == 0).all()
    assert (agents.sampled[:, 6:] == 0).all()
    assert agents.points[:, :, :6, :6].abs().max() <= 1
    assert (agents.points[:, :, :6, :6] != 0).all()
    assert agents.chosen.shape == agents.logits.shape == (1, 4, 4, 2)


def test_more_windows_than_there_are_is_said_once():
    m = layer(num_windows=2, topk=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        m(torch.randn(1, 8, 6, 6))
    assert [str(one.message) for one in caught] == [
        'topk=5 is more than the 4 regions of this map; all of them are attended to']


@pytest.mark.parametrize(('options', 'message'), [
    (dict(num_heads=3), 'embed_dims=8 is not divisible by num_heads=3'),
    (dict(offset_groups=3), 'num_heads=4 is not divisible by offset_groups=3'),
    (dict(offset_kernel_size=4), 'offset_kernel_size=4'), (dict(lepe_kernel_size=2), 'lepe_kernel_size=2'),
    (dict(stride=0), 'stride=0 must be at least 1'), (dict(num_windows=0), 'num_windows=0 must be at least 1'),
    (dict(topk=0), 'topk=0 must be at least 1'), (dict(table_size=0), 'table_size'),
    (dict(mlp_ratio=0.01), 'mlp_ratio=0.01 leaves no hidden channels')])
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        layer(**options)


def test_a_map_of_other_channels_is_named():
    with pytest.raises(ArgumentError, match='8'):
        layer()(torch.randn(1, 7, 6, 6))


def test_repr():
    assert 'embed_dims=8, num_heads=4, offset_groups=2, stride=2, num_windows=3, topk=2' in repr(layer())
