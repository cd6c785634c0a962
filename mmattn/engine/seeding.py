"""Randomness that follows from where a training stands, not from how it got there: a resumed one goes on as if it had
never stopped, with the same augmentations and the same dropped units."""
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info, get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS as ALL_SAMPLERS
from mmengine.runner import Runner
from torch.utils.data import Dataset, Sampler

from mmattn.registry import DATA_SAMPLERS, HOOKS

STEP, DRAW = 0, 1       # what a seed is for


def seed_by(*numbers: int) -> None:
    """Seed the generators of Python, NumPy and torch by whole numbers from 0."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)       # noqa: NPY002, the generator that augmentations use
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))


class Draw(int):
    """An index into a data set that knows its place in the training: (seed, epoch, number in the epoch)."""

    place: tuple[int, int, int] | None = None


@DATA_SAMPLERS.register_module()
class NumberedSampler(Sampler[int]):
    """Draws what another sampler draws, and has each sample augmented by generators that its place alone seeds: which
    worker makes it, how many there are, and what they made before is of no account.

    Of a data set that fetches batches by a `__getitems__` of its own, the first sample of a batch seeds all of it.

    Args:
        dataset: what is drawn from.
        sampler: config of the sampler.
        seed: of the training; None takes the sampler's own.
    """

    def __init__(self, dataset: Dataset[Any], sampler: dict[str, Any], *, seed: int | None = None) -> None:
        super().__init__()
        self.sampler = ALL_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.seed: int = getattr(self.sampler, 'seed', seed) or 0
        self.epoch = 0
        self.first = 0
        # what torch's loader calls in place of dataset[index]
        dataset.__getitems__ = SeededFetch(dataset)     # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Draw]:
        rank, processes = get_dist_info()
        for number, index in enumerate(self.sampler, self.first):
            draw = Draw(index)
            draw.place = self.seed, self.epoch, number * processes + rank
            yield draw

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['sampler'], name)

    def set_epoch(self, epoch: int) -> None:
        """Number the draws of another epoch."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    @property
    def skip(self) -> Callable[[int], None]:
        """Start behind a number of draws; an attribute only where the sampler has it."""
        skip = self.sampler.skip

        def skip_both(count: int) -> None:
            skip(count)
            self.first = count
        return skip_both


class SeededFetch:
    """The samples of a batch, each after seeding by its place; those of a data set that fetches whole batches after
    seeding by the place of the first."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __call__(self, draws: Sequence[int]) -> list[Any]:
        fetch = getattr(type(self.dataset), '__getitems__', None)       # this object is in place of it in the instance
        if fetch:
            _seed_draw(draws[0])
            return fetch(self.dataset, draws)
        samples = []
        for draw in draws:
            _seed_draw(draw)
            samples.append(self.dataset[draw])
        return samples


def _seed_draw(draw: int) -> None:
    place = getattr(draw, 'place', None)
    if place:
        seed_by(DRAW, *place)


@HOOKS.register_module()
class SeedHook(Hook):
    """Seeds every step by its number, for dropout and stochastic depth, and keeps the gradients of an accumulation that
    a checkpoint interrupts (with one process: with several, save after a whole step)."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_by(STEP, runner.seed, runner.iter, get_rank())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        gradients = {name: p.grad.cpu() for name, p in runner.model.named_parameters() if p.grad is not None}
        if gradients and runner.world_size == 1:
            checkpoint['gradients'] = gradients
        elif gradients:
            runner.logger.warning('this checkpoint is in the middle of an accumulation of gradients, which a resumed '
                                  'training starts anew')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        gradients = checkpoint.get('gradients', {}) if runner._resume else {}
        for name, p in runner.model.named_parameters():
            if name in gradients:
                p.grad = gradients[name].to(p.device)
