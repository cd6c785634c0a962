"""Randomness that follows from where a training stands, not from how it got there: a resumed one goes on as if it had
never stopped, with the same augmentations and the same dropped units."""
import random

import numpy as np
import torch
from mmengine.dist import get_dist_info, get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS as ALL_SAMPLERS
from torch.utils.data import Sampler

from mmattn.registry import DATA_SAMPLERS, HOOKS

STEP, DRAW = 0, 1       # what a seed is for


def seed_by(*numbers):
    """Seed the generators of Python, NumPy and torch by whole numbers from 0."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)       # noqa: NPY002, the generator that augmentations use
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))


class Draw(int):
    """An index into a data set that knows its place in the training: (seed, epoch, number in the epoch)."""

    place = None


@DATA_SAMPLERS.register_module()
class NumberedSampler(Sampler):
    """Draws what another sampler draws, and has each sample augmented by generators that its place alone seeds: which
    worker makes it, how many there are, and what they made before is of no account.

    Args:
        dataset (Dataset): what is drawn from.
        sampler (dict): config of the sampler.
        seed (int | None): of the training; None takes the sampler's own.
    """

    def __init__(self, dataset, sampler, seed=None):
        super().__init__()
        self.sampler = ALL_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.seed = getattr(self.sampler, 'seed', seed) or 0
        self.epoch = 0
        self.first = 0
        dataset.__getitems__ = SeededFetch(dataset)     # what torch's loader calls in place of dataset[index]

    def __iter__(self):
        rank, processes = get_dist_info()
        for number, index in enumerate(self.sampler, self.first):
            draw = Draw(index)
            draw.place = self.seed, self.epoch, number * processes + rank
            yield draw

    def __len__(self):
        return len(self.sampler)

    def __getattr__(self, name):
        return getattr(self.__dict__['sampler'], name)

    def set_epoch(self, epoch):
        """Number the draws of another epoch."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    @property
    def skip(self):
        """Start behind a number of draws; an attribute only where the sampler has it."""
        skip = self.sampler.skip

        def skip_both(count):
            skip(count)
            self.first = count
        return skip_both


class SeededFetch:
    """The samples of a batch, each after seeding by its place."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __call__(self, draws):
        samples = []
        for draw in draws:
            if getattr(draw, 'place', None):
                seed_by(DRAW, *draw.place)
            samples.append(self.dataset[draw])
        return samples


@HOOKS.register_module()
class SeedHook(Hook):
    """Seeds every step by its number, for dropout and stochastic depth, and keeps the gradients of an accumulation that
    a checkpoint interrupts (with one process: with several, save after a whole step)."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seed_by(STEP, runner.seed, runner.iter, get_rank())

    def before_save_checkpoint(self, runner, checkpoint):
        gradients = {name: p.grad.cpu() for name, p in runner.model.named_parameters() if p.grad is not None}
        if gradients and runner.world_size == 1:
            checkpoint['gradients'] = gradients
        elif gradients:
            runner.logger.warning('this checkpoint is in the middle of an accumulation of gradients, which a resumed '
                                  'training starts anew')

    def after_load_checkpoint(self, runner, checkpoint):
        gradients = checkpoint.get('gradients', {}) if runner._resume else {}
        for name, p in runner.model.named_parameters():
            if name in gradients:
                p.grad = gradients[name].to(p.device)
