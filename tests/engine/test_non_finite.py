import json
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mmattn.checkpoint.reading import read_checkpoint
from mmattn.engine.non_finite import NonFiniteHook, call_of, find_culprit, finite, tensors
from mmattn.errors import NonFiniteError
from tests.conftest import ROOT
from tests.engine import two_processes
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


class Pair(Net):
    """Trains its two halves by an optimizer each; the third step of the second one has an infinite gradient."""

    steps = 0

    def train_step(self, data, optim_wrapper):
        self.steps += 1
        losses = self(**self.data_preprocessor(data, True), mode='loss')
        optim_wrapper['first'].backward(losses['loss'])
        for name in ('first', 'last'):
            if self.steps == 3 and name == 'last':
                self.last.bias.grad.fill_(torch.inf)
            optim_wrapper[name].step()
            optim_wrapper[name].zero_grad()
        return losses


def wrappers(model):
    return OptimWrapperDict(**{name: OptimWrapper(torch.optim.SGD(getattr(model, name).parameters(), lr=0.01))
                               for name in ('first', 'last')})


def test_each_of_several_optimizers_is_watched(runner, tmp_path):
    model, biases = Pair(), []
    both = wrappers(model)
    both['last'].optimizer.register_step_post_hook(lambda *_: biases.append(model.last.bias.detach().clone()))
    with pytest.raises(NonFiniteError, match='step 3: the gradient is not finite, but finite when it was run again'):
        runner(model=model, non_finite=HOOK, optim_wrapper=both).train()
    assert len(biases) == 2
    assert torch.equal(model.last.bias, biases[1])
    model = Pair()
    model.steps = 3         # the fault is over
    resumed = runner(model=model, non_finite=HOOK, optim_wrapper=wrappers(model), resume=True)
    resumed.train()
    assert resumed.iter == 6


class Apart(Pair):
    """Calls its halves one by one."""

    def __call__(self, inputs, mode):
        return self.forward(inputs, mode)


def test_a_model_that_is_not_called_as_a_whole_is_stopped_too(runner, tmp_path):
    model = Apart()
    with pytest.raises(NonFiniteError, match='step 3: the gradient is not finite; the model was not called as a whole, '
                                             'so that there is nothing to run again'):
        runner(model=model, non_finite=HOOK, optim_wrapper=wrappers(model)).train()
    assert not list(tmp_path.glob('non_finite*'))


def test_a_file_that_cannot_be_written_hides_nothing(runner, tmp_path, monkeypatch):
    def save(content, path):
        if 'call' in content:
            path.write_text('a part')
            raise RuntimeError('no space')
    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(NonFiniteError, match=re.escape(
            'step 3: loss is not finite, first in middle.2 (Fault), whose inputs are finite; what the model was given '
            f'cannot be saved in {tmp_path}/non_finite_step_3.pth for tools/replay.py: no space')):
        runner(model=net('forward'), non_finite=HOOK, checkpoint=None).train()
    assert not list(tmp_path.glob('*.pth'))


class Refusing(nn.Module):
    def forward(self, x):
        if not finite(x):
            raise ValueError('too large')
        return x


def test_what_fails_on_such_numbers_does_not_hide_where_they_come_from():
    model = net('eval').eval()
    model.middle.append(Refusing())
    assert find_culprit(model, call_of(model, dict(inputs=[torch.ones(2)]))) == (
        'first in middle.2 (Fault), whose inputs are finite')
    with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
        find_culprit(model, call_of(model, dict(inputs=[torch.ones(3)])))


def test_several_processes_stop_together_in_one_line(run, tmp_path):
    run('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', ROOT / 'tests/engine/two_processes.py',
        tmp_path)
    said, other = (json.loads((tmp_path / f'said_{rank}.json').read_text()) for rank in range(2))
    assert said == other
    for name, step, what, process, file in (
            ('loss', 3, 'loss', 1, 'non_finite_step_3_rank_1.pth'),
            ('gradient', 3, 'the gradient', 0, 'non_finite_step_3.pth'),
            ('output', 5, 'the output of middle', 1, 'non_finite_step_5_rank_1.pth'),
            ('last', 5, 'the output of middle', 0, 'non_finite_step_5.pth')):
        path = tmp_path / name / file
        assert said[name] == (
            f'step {step}: {what} is not finite in process {process}; what the model was given, its weights and the '
            f'generators are in {path}, for tools/replay.py, which names the module' +
            '; beside it: 1 more of this step' * (name == 'gradient'))
        rank_1 = path.with_name(f'non_finite_step_{step}_rank_1.pth')
        assert rank_1.exists() == (name != 'last')
        kind, _, call = two_processes.CASES[name]
        model = two_processes.net(kind, call)
        content = read_checkpoint(rank_1 if name == 'gradient' else path)
        model.load_state_dict(content['state_dict'])
        model.middle[1].calls -= 1      # of the call that is made again
        culprit = 'first in that of middle.1.weight' if name == 'gradient' else (
            'first in middle.1 (Exchange), whose inputs are finite')
        assert find_culprit(model, content['call']) == culprit
