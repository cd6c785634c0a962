import warnings

import pytest
import torch
from torch.nn import functional as F

from mmattn.errors import ArgumentError
from mmattn.layers import BiLevelRoutingAttention
from mmattn.layers.regions import Regions
from mmattn.layers.sampling import KV_SAMPLINGS, sample_regions
from tests.compare import assert_same


def layer(**options):
    return BiLevelRoutingAttention(8, **dict(num_heads=2, num_windows=3, topk=2, lepe_kernel_size=3) | options)


def by_formula(m, x):
    """Region by region, with padding before the projections and no sampling of keys."""
    n, (height, width) = m.num_windows, x.shape[2:]
    x = F.pad(x, (0, -width % n, 0, -height % n))
    rows, columns = (side // n for side in x.shape[2:])
    q, k, v = m.qkv(x.permute(0, 2, 3, 1)).split([m.qk_dims, m.qk_dims, x.shape[1]], -1)
    lepe = F.conv2d(v.permute(0, 3, 1, 2), m.lepe.weight, m.lepe.bias, padding=1, groups=8).permute(0, 2, 3, 1)

    def regions(t):
        return [t[:, y:y + rows, z:z + columns].flatten(1, 2) for y in range(0, n * rows, rows)
                for z in range(0, n * columns, columns)]

    q, k, v = regions(q), regions(k), regions(v)
    out = torch.zeros_like(lepe)
    for b in range(len(x)):
        for i, query in enumerate(q):
            fit = torch.stack([query[b].mean(0) @ key[b].mean(0) for key in k])
            chosen = fit.topk(m.topk).indices
            keys, values = (torch.cat([t[j][b] for j in chosen]) for t in (k, v))
            heads = [(qh @ kh.T * m.scale).softmax(-1) @ vh
                     for qh, kh, vh in zip(*(t.chunk(m.num_heads, -1) for t in (query[b], keys, values)))]
            y, z = i // n * rows, i % n * columns
            out[b, y:y + rows, z:z + columns] = torch.cat(heads, -1).view(rows, columns, -1)
    return m.proj(out + lepe)[:, :height, :width].permute(0, 3, 1, 2)


@pytest.mark.parametrize('size', [(1, 1), (3, 9), (7, 11)])
@pytest.mark.parametrize('options', [dict(), dict(qk_dims=4, out_proj=False)], ids=str)
def test_equals_the_formula_with_gradients(size, options):
    m = layer(**options).double()
    x = torch.randn(2, 8, *size, dtype=torch.double, requires_grad=True)
    assert_same(m(x), by_formula(m, x), (x, *m.parameters()))


@pytest.mark.parametrize('sampling', KV_SAMPLINGS)
@pytest.mark.parametrize('pad', ['before', 'after'])
@pytest.mark.parametrize('mask_padding', [False, True])
@pytest.mark.parametrize('size', [(1, 1), (2, 7), (13, 5), (11, 13)])
@pytest.mark.filterwarnings('ignore:topk=2 is more than')
def test_any_size_and_option_is_finite_and_trains(sampling, pad, mask_padding, size):
    m = layer(kv_sampling=sampling, kv_size=2, pad=pad, mask_padding=mask_padding, param_routing=True,
              diff_routing=True)
    x = torch.randn(3, 8, *size, requires_grad=True)
    out = m(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *m.parameters()))


@pytest.mark.parametrize('sampling', KV_SAMPLINGS)
@pytest.mark.parametrize('pad', ['before', 'after'])
@pytest.mark.parametrize('value', [1e4, -1e4])
def test_masked_padding_is_not_seen(monkeypatch, sampling, pad, value):
    """Whatever zeros the layer pads with are written over with large values."""
    m = layer(kv_sampling=sampling, kv_size=2, pad=pad, mask_padding=True).eval()
    x = torch.randn(2, 8, 7, 11)
    clean = m(x)
    plain = F.pad

    def dirty(t, amounts):
        if len(amounts) == 4:       # kernels larger than a region
            return plain(t, amounts)
        return plain(t, amounts, value=value)

    monkeypatch.setattr(F, 'pad', dirty)
    torch.testing.assert_close(m(x), clean)
    m.mask_padding = False
    if value > 0 or sampling not in ('ada_maxpool', 'maxpool', 'fracpool'):     # a maximum does not see low values
        assert not torch.allclose(m(x), clean, atol=1e-2)


@pytest.mark.parametrize('pad', ['before', 'after'])
def test_without_padding_the_mask_changes_nothing(pad):
    m = layer(pad=pad)
    x = torch.randn(1, 8, 9, 12)
    out = m(x)
    m.mask_padding = True
    torch.testing.assert_close(m(x), out)


def test_more_routes_than_regions_is_all_of_them_with_one_warning():
    m = layer(num_windows=2, topk=9)
    x = torch.randn(1, 8, 6, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        out = m(x)
        m(x)
    assert [str(w.message) for w in caught] == ['topk=9 is more than the 4 regions of this map; all of them are '
                                                'attended to']
    m.topk = 4
    torch.testing.assert_close(m(x), out)


def test_gradients_reach_the_router_only_where_asked():
    x = torch.randn(1, 8, 9, 9)
    for options, reaches in ((dict(soft_routing=True), False), (dict(soft_routing=True, diff_routing=True), True),
                             (dict(diff_routing=True), True)):
        seen = []
        m = layer(**options)
        m.router.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0].requires_grad))
        m(x)
        assert seen == [reaches] * 2
    plain, straight = layer(), layer(diff_routing=True)
    straight.load_state_dict(plain.state_dict())
    torch.testing.assert_close(straight(x), plain(x))


def test_fractional_pooling_takes_keys_and_values_from_the_same_places():
    m = layer(kv_sampling='fracpool', kv_size=3)
    k = torch.randn(2, 10, 12, 8)
    for training in (True, False):
        m.train(training)
        first, second, _ = m._sample(k, 2 * k, (2, 2), None)
        torch.testing.assert_close(second, 2 * first)
        assert first.shape == (2, 6, 6, 8)
    assert torch.equal(m._sample(k, k, (2, 2), None)[0], m._sample(k, k, (2, 2), None)[0])


@pytest.mark.parametrize('sampling', KV_SAMPLINGS)
def test_only_fractional_pooling_draws_random_numbers(sampling):
    m = layer(kv_sampling=sampling, kv_size=2).train()
    state = torch.get_rng_state()
    m(torch.randn(1, 8, 12, 12, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state) == (sampling != 'fracpool')


@pytest.mark.parametrize(('sampling', 'wanted', 'kept'), [
    ('identity', [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]),
    ('avgpool', [[2.5, 4]], [[1, 1]]),                      # of (0, 1, 4, 5) and of (2, 6)
    ('maxpool', [[5, 6]], [[1, 1]]),
    ('ada_avgpool', [[2.5, 4], [4.5, 6]], [[1, 1], [1, 1]]),        # rows 0 and 1, 1 and 2
    ('ada_maxpool', [[5, 6], [5, 6]], [[1, 1], [1, 1]]),
])
def test_samplings_of_what_is_real_by_hand(sampling, wanted, kept):
    x = torch.arange(12.).view(1, 1, 3, 4)
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)[None, None]
    out, left = sample_regions(sampling, x, real, 2)
    torch.testing.assert_close(out, torch.tensor(wanted, dtype=torch.float)[None, None])
    assert torch.equal(left, torch.tensor(kept, dtype=torch.bool)[None, None])
    assert sample_regions(sampling, x, None, 2)[1] is None


def test_where_nothing_is_real_a_sample_is_zero_and_not_real():
    x, real = torch.full((1, 2, 2, 4), -3.), torch.tensor([1, 1, 0, 0]).bool().expand(1, 1, 2, 4)
    for sampling in ('avgpool', 'maxpool'):
        out, left = sample_regions(sampling, x, real, 2)
        assert left.tolist() == [[[[True, False]]]]
        torch.testing.assert_close(out, torch.tensor([-3., 0]).expand(1, 2, 1, 2))


@pytest.mark.parametrize(('size', 'count', 'fixed', 'grid', 'region'), [
    ((7, 10), 3, True, (3, 3), (3, 4)), ((7, 10), 3, False, (4, 4), (2, 3)),
    ((1, 2), 3, True, (3, 3), (1, 1)), ((1, 2), 3, False, (1, 2), (1, 1)), ((6, 9), 3, True, (3, 3), (2, 3))])
def test_regions_cover_the_map(size, count, fixed, grid, region):
    regions = Regions.of(size, count, fixed)
    assert (regions.grid, regions.region) == (grid, region)
    x = torch.randn(2, *size, 5)
    padded = regions.pad(x)
    assert padded.shape[1:3] == regions.padded_size == (grid[0] * region[0], grid[1] * region[1])
    assert torch.equal(regions.crop(padded), x)
    assert torch.equal(regions.real(x.device)[0], regions.pad(torch.ones_like(x))[0, ..., 0] > 0)
    boxes = regions.boxes(x.device).flatten(0, 1).tolist()
    for number, (top, left, bottom, right) in enumerate(boxes):
        torch.testing.assert_close(regions.means(padded).flatten(1, 2)[:, number],
                                   padded[:, top:bottom, left:right].mean((1, 2)))


@pytest.mark.parametrize(('options', 'message'), [
    (dict(num_heads=3), 'embed_dims=8 is not divisible by num_heads=3'),
    (dict(qk_dims=5), 'qk_dims=5 is not divisible by num_heads=2'),
    (dict(kv_sampling='pool'), "kv_sampling='pool' is unknown; choose one of identity, ada_avgpool"),
    (dict(pad='both'), "pad='both' is unknown; choose one of before, after"),
    (dict(num_windows=0), 'num_windows=0 must be at least 1'),
    (dict(topk=0), 'topk=0 must be at least 1'),
    (dict(lepe_kernel_size=2), 'lepe_kernel_size=2 must be odd'),
    (dict(param_routing=True), 'param_routing=True needs diff_routing=True'),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        layer(**options)


def test_a_backend_is_passed_on():
    m, x = layer(), torch.randn(1, 8, 7, 11)
    out = m(x)
    m.backend = 'reference'
    torch.testing.assert_close(m(x), out)
    with pytest.raises(ValueError, match="backend='fast' is unknown; choose one of gathered, reference"):
        layer(backend='fast')(x)
