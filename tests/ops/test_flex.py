from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from mmattn.ops import flex
from mmattn.ops.separable import separable_attention

CPU = torch.device('cpu')
plain = partial(separable_attention, block=2 ** 20)
trial = flex._trial.__wrapped__         # without its memory


def problem(batch=2, heads=4, size=(5, 7), keys=9):
    q, k, v = (torch.randn(batch, heads, *n, 16) for n in (size, [keys], [keys]))
    points, table = torch.rand(batch, 2, keys, 2) * 6 - 3, torch.randn(heads, 9, 11)
    return q, k, v, points, table, *(torch.linspace(-1, 1, n) for n in size)


@pytest.fixture
def unfused(monkeypatch):
    monkeypatch.setattr(flex, '_compiled', lambda: flex_attention)


@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
@pytest.mark.usefixtures('unfused')
def test_score_function_gives_the_bias_inside_and_outside_the_table():
    args = problem()
    with torch.no_grad():
        torch.testing.assert_close(flex.flex_deformable_attention(*args), plain(*args))


def test_the_kernel_gets_the_channels_of_a_token_side_by_side(monkeypatch):
    seen = []

    def attend(q, k, v, score_mod):
        seen.extend([q, k, v])
        return v.new_zeros(q.shape)
    monkeypatch.setattr(flex, '_compiled', lambda: attend)
    q, k, v, *rest = problem()
    flex.flex_deformable_attention(*map(flex._channels_first, (q, k, v)), *rest)
    assert [t.stride(-1) for t in seen] == [1, 1, 1]
    assert all(torch.equal(t, given) for t, given in zip(seen, (q.flatten(2, 3), k, v)))


@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
def test_maps_of_any_size_are_one_kind_and_a_kind_too_many_runs_in_the_separable_form(monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=True, fullgraph=True, backend=backend)
    monkeypatch.setattr(flex, '_compiled', lambda: compiled)
    monkeypatch.setattr(flex, 'KINDS', 2)
    with torch.no_grad():
        for heads, size, count in ((4, (5, 7), 1), (4, (6, 11), 1), (4, (3, 8), 1), (6, (5, 7), 2)):
            args = problem(heads=heads, size=size, keys=size[0] + size[1])
            torch.testing.assert_close(flex.flex_deformable_attention(*args), plain(*args))
            assert len(graphs) == count
        args = problem(heads=8)
        with pytest.warns(UserWarning, match=r'^FlexAttention was compiled for 2 kinds of problems, and is not for '
                                             r'another: queries \(2, 8, 5, 7, 16\), torch.float32; the separable form '
                                             r'runs instead$'):
            torch.testing.assert_close(flex.flex_deformable_attention(*args), plain(*args))
    torch._dynamo.reset()


def test_refusals_name_the_reason(monkeypatch):
    assert flex.flex_refusals(torch.zeros(1, 2, 3, 4, 16)) == ['FlexAttention trains on CUDA only; q is on cpu']
    odd = SimpleNamespace(device=torch.device('cuda'), shape=(1, 2, 3, 4, 24))
    assert flex.flex_refusals(odd) == ['FlexAttention needs head dims that are a power of two, at least 16; q has 24']
    monkeypatch.setattr(flex, 'is_traced', lambda: True)
    assert flex.flex_refusals(odd) == ['FlexAttention is compiled by itself, which cannot be traced']


@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
@pytest.mark.usefixtures('unfused')
def test_a_failing_trial_is_a_reason():
    # it has no backward pass on the CPU
    assert trial(CPU, torch.float32, 16).startswith('FlexAttention failed on cpu: NotImplementedError: ')


def test_an_error_without_words_is_a_reason(monkeypatch):
    def fail(*args):
        raise AssertionError
    monkeypatch.setattr(flex, 'flex_deformable_attention', fail)
    assert trial(CPU, torch.float32, 16) == 'FlexAttention failed on cpu: AssertionError: '


def test_a_trial_that_comes_out_wrong_is_a_reason(monkeypatch):
    monkeypatch.setattr(flex, 'flex_deformable_attention', lambda *args: plain(*args) * 1.1)
    assert trial(CPU, torch.float32, 16) == 'FlexAttention errs by 1.0e-01 in the output on cpu'
    monkeypatch.setattr(flex, 'flex_deformable_attention', plain)
    assert trial(CPU, torch.float32, 16) is None


def test_the_trial_looks_at_the_strides_that_layers_give(monkeypatch):
    monkeypatch.setattr(flex, 'flex_deformable_attention',
                        lambda q, *rest: plain(q, *rest) * (1 if q.is_contiguous() else 1.1))
    assert trial(CPU, torch.float32, 16) == 'FlexAttention errs by 1.0e-01 in the output on cpu, channels first'


@pytest.mark.parametrize('around', [torch.inference_mode(), torch.no_grad(), torch.autocast('cpu', torch.bfloat16)])
def test_what_surrounds_the_first_use_is_no_reason(monkeypatch, around):
    monkeypatch.setattr(flex, 'flex_deformable_attention', plain)
    with around:
        assert trial(CPU, torch.float32, 16) is None
