import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, Subset

from mmattn.engine.seeding import Draw, NumberedSampler, seed_by
from tests.engine.conftest import Net, Numbers


def numbers():
    return random.random(), np.random.rand(), torch.rand(1).item()      # noqa: NPY002


def test_seeds_of_different_places_differ():
    drawn = {}
    for place in ((0, 0), (0, 1), (1, 0), (1, 1), (2 ** 40, 0)):
        seed_by(*place)
        drawn[place] = numbers()
        seed_by(*place)
        assert numbers() == drawn[place]
    assert len({value for values in drawn.values() for value in values}) == 15


def test_a_draw_is_its_index_and_keeps_its_place_on_the_way_to_a_worker():
    draw = Draw(3)
    draw.place = 1, 2, 3
    again = pickle.loads(pickle.dumps(draw))
    assert again == 3 and [0, 1, 2, 5][again] == 5 and again.place == (1, 2, 3)     # noqa: PT018


def batches(workers, epochs, **options):
    dataset = Numbers()
    sampler = NumberedSampler(dataset, dict(type='DefaultSampler', shuffle=True), seed=3)
    loader = DataLoader(dataset, 2, sampler=sampler, num_workers=workers, **options)
    for epoch in epochs:
        sampler.set_epoch(epoch)
        yield torch.cat([batch['inputs'] for batch in loader])


def test_samples_do_not_depend_on_workers_nor_on_earlier_epochs():
    expected = list(batches(0, range(3)))
    assert not torch.equal(*expected[:2])
    for workers, options in ((1, {}), (3, dict(persistent_workers=True))):
        for sample, other in zip(expected, batches(workers, range(3), **options)):
            torch.testing.assert_close(sample, other, rtol=0, atol=0)
    later, = batches(2, [2])
    torch.testing.assert_close(later, expected[2], rtol=0, atol=0)


class Whole(Numbers):
    """Fetches a batch at once, as a data base does."""

    fetched = 0

    def __getitems__(self, indices):
        noise = torch.rand(len(indices))
        self.fetched += 1
        return [{'inputs': torch.tensor([float(index), value])} for index, value in zip(indices, noise)]


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_data_set_that_fetches_batches_keeps_doing_so(wrapped):
    def drawn(workers):
        whole = Whole()
        dataset = Subset(whole, range(8)) if wrapped else whole
        sampler = dict(type='DefaultSampler', shuffle=True)
        for _ in range(2):      # for two trainings of one data set, too
            numbered = NumberedSampler(dataset, sampler, seed=3)
        loader = DataLoader(dataset, 2, sampler=numbered, num_workers=workers)
        rows = torch.cat([batch['inputs'] for batch in loader])
        return whole.fetched, rows

    fetched, rows = drawn(0)
    assert fetched == 4
    assert rows[:, 0].sort().values.tolist() == list(range(8))
    assert rows[:, 1].unique().numel() == 8
    torch.testing.assert_close(drawn(2)[1], rows, rtol=0, atol=0)
    seed_by(1, 3, 0, 2)         # the second batch: a draw, of seed 3, in epoch 0, from the third sample on
    torch.testing.assert_close(rows[2:4, 1], torch.rand(2), rtol=0, atol=0)


def test_the_sampler_is_what_it_numbers():
    numbered = NumberedSampler(Numbers(), dict(type='DefaultSampler', shuffle=True), seed=3)
    plain = DefaultSampler(Numbers(), shuffle=True, seed=3)
    assert list(numbered) == list(plain)
    assert len(numbered) == len(plain) == 8
    assert numbered.shuffle
    assert not hasattr(numbered, 'skip')
    assert [draw.place for draw in numbered][:2] == [(3, 0, 0), (3, 0, 1)]


class Stop(Hook):
    """Ends a training as an error would."""

    priority = 'LOWEST'

    def __init__(self, after):
        self.after = after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.after:
            raise InterruptedError


def trained(runner, folder, stop=None, **options):
    """Weights of a training that is stopped after a number of steps and goes on, or of one that is not."""
    if stop:
        with pytest.raises(InterruptedError):
            runner(folder, stop=Stop(stop), **options).train()
    one = runner(folder, resume=bool(stop), **options)
    one.train()
    return one.model.state_dict()


@pytest.mark.parametrize('stop', [2, 3])
@pytest.mark.parametrize('options', [
    dict(), dict(optim_wrapper=dict(accumulative_counts=2)), dict(ema=dict(type='EMAHook', momentum=0.3)),
    dict(optim_wrapper=dict(type='mmattn.BFloat16OptimWrapper'))], ids=['plain', 'accumulation', 'EMA', 'bfloat16'])
def test_a_resumed_training_gives_the_same_bits(runner, tmp_path, stop, options):
    whole = trained(runner, tmp_path / 'whole', **options)
    for name, weight in trained(runner, tmp_path / 'resumed', stop, **options).items():
        torch.testing.assert_close(weight, whole[name], rtol=0, atol=0)


def test_accumulated_gradients_are_those_of_a_larger_batch(runner, tmp_path):
    def weights(batch_size, steps):
        torch.manual_seed(0)
        model = Net()
        model.middle[0].p = 0
        runner(tmp_path / str(steps), model, batch_size, optim_wrapper=dict(accumulative_counts=4 // batch_size),
               train_cfg=dict(max_iters=steps)).train()
        return model.state_dict()
    start = runner(tmp_path / 'start').model.state_dict()
    whole = weights(4, 3)
    assert not torch.equal(whole['first.weight'], start['first.weight'])
    for name, weight in weights(1, 12).items():
        torch.testing.assert_close(weight, whole[name], rtol=0, atol=1e-6)


def test_without_seeds_a_resumed_training_differs(runner, tmp_path):
    whole, resumed = (trained(runner, tmp_path / str(stop), stop, seed=None, numbered=False) for stop in (None, 3))
    assert not torch.equal(whole['first.weight'], resumed['first.weight'])


def test_weights_alone_bring_no_gradients(runner, tmp_path):
    options = dict(optim_wrapper=dict(accumulative_counts=2))
    with pytest.raises(InterruptedError):
        runner(stop=Stop(3), **options).train()
    other = runner(tmp_path / 'other')
    assert 'gradients' in other.load_checkpoint(str(tmp_path / 'iter_3.pth'))
    assert all(p.grad is None for p in other.model.parameters())
