from types import SimpleNamespace

import pytest
import torch

from mmattn.ops import flex
from mmattn.ops.separable import separable_attention


@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
def test_score_function_gives_the_bias_inside_and_outside_the_table():
    q, k, v = torch.randn(2, 4, 5, 7, 16), torch.randn(2, 4, 9, 16), torch.randn(2, 4, 9, 16)
    points, table = torch.rand(2, 2, 9, 2) * 6 - 3, torch.randn(4, 9, 11)
    grid = torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 7)
    with torch.no_grad():
        out = flex.flex_deformable_attention(q, k, v, points, table, *grid, compiled=False)
        torch.testing.assert_close(out, separable_attention(q, k, v, points, table, *grid))


def test_refusals_name_the_reason():
    assert flex.flex_refusals(torch.zeros(1, 2, 3, 4, 16)) == ['FlexAttention trains on CUDA only; q is on cpu']
    odd = SimpleNamespace(device=torch.device('cuda'), shape=(1, 2, 3, 4, 24))
    assert flex.flex_refusals(odd) == ['FlexAttention needs head dims that are a power of two, at least 16; q has 24']


def test_a_failing_trial_is_a_reason():
    reason = flex._trial(torch.device('cpu'), torch.float32, 16)        # it has no backward pass on the CPU
    assert reason.startswith('FlexAttention failed on cpu: NotImplementedError: ')


def test_a_trial_that_comes_out_wrong_is_a_reason(monkeypatch):
    monkeypatch.setattr(flex, 'flex_deformable_attention', lambda *args: separable_attention(*args) * 1.1)
    assert 'errs by 1.0e-01 in the output' in flex._trial.__wrapped__(torch.device('cpu'), torch.float32, 16)
    monkeypatch.setattr(flex, 'flex_deformable_attention', separable_attention)
    assert flex._trial.__wrapped__(torch.device('cpu'), torch.float32, 16) is None
