import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmattn.checkpoint.reading import read_checkpoint
from mmattn.engine.non_finite import NonFiniteHook, call_of, find_culprit, finite, tensors
from mmattn.errors import NonFiniteError
from tests.engine.conftest import Net

HOOK = dict(type='mmattn.NonFiniteHook')


class Fault(nn.Module):
    """Makes a number that is not finite in the third call in training: forwards, or backwards alone."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer('calls', torch.zeros(1))

    def forward(self, x):
        if not self.training and self.kind == 'eval':
            return x / 0
        self.calls += self.training
        if self.calls < 3:
            return x * self.weight
        if self.kind == 'forward':
            return x * self.weight / 0
        if self.kind == 'backward':         # the square root of zero has an infinite slope
            return x * self.weight + (x.detach() * 0 * self.weight).sqrt()
        return x * self.weight


def net(kind):
    model = Net()
    model.middle.append(Fault(kind))
    return model


@pytest.mark.parametrize('counts', [1, 3])
@pytest.mark.parametrize(('kind', 'what', 'culprit'), [
    ('forward', 'loss', 'first in middle.2 (Fault), whose inputs are finite'),
    ('backward', 'the gradient', 'first in that of middle.2.weight')])
def test_it_stops_before_the_weights_are_changed(runner, tmp_path, kind, what, culprit, counts):
    model = net(kind)
    training = runner(model=model, non_finite=HOOK, optim_wrapper=dict(accumulative_counts=counts))
    path = tmp_path / 'non_finite_step_3.pth'
    with pytest.raises(NonFiniteError, match=re.escape(
            f'step 3: {what} is not finite, {culprit}; what the model was given, its weights and the generators are in '
            f'{path}, for tools/replay.py')):
        training.train()
    assert finite(list(model.parameters()))
    content = read_checkpoint(path)
    again = net(kind)
    again.load_state_dict(content['state_dict'])
    assert find_culprit(again, content['call']) == culprit


def test_the_gradient_of_an_unfinished_accumulation_is_checked_too(runner):
    with pytest.raises(NonFiniteError, match='step 3: the gradient'):
        runner(model=net('backward'), non_finite=HOOK, optim_wrapper=dict(accumulative_counts=5)).train()


def test_a_finite_training_goes_on(runner):
    training = runner(model=net('none'), non_finite=HOOK)
    training.train()
    assert training.iter == 6


def test_outputs_of_parts_are_checked_where_nothing_is_trained(tmp_path):
    model, hook = net('eval').eval(), NonFiniteHook()
    hook.before_test(SimpleNamespace(model=model, cfg={}, work_dir=tmp_path, iter=0))
    with pytest.raises(NonFiniteError, match=r'the output of middle is not finite, first in middle\.2 \(Fault\)'):
        model(inputs=[torch.ones(2)])


def test_what_cannot_be_found_is_said():
    call = call_of(Net(), dict(inputs=[torch.ones(2)], mode='loss'))
    assert find_culprit(Net(), call) == 'but finite when it was run again'
    broken = Net()
    broken.last.bias.data.fill_(torch.nan)
    assert find_culprit(broken, call) == 'first in last (Linear), whose bias is not finite'


def test_tensors_in_containers():
    one, two = torch.ones(1), torch.tensor([torch.inf])
    assert list(tensors({'a': [one, (two,)], 'b': 3, 'c': torch.ones(1, dtype=int)})) == [one, two]
    assert finite([one]) and finite([]) and not finite([one, two])      # noqa: PT018
