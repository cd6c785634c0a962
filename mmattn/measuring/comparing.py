"""Trainings of several networks from several seeds, and what they come to."""
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmattn.config import read_config
from mmattn.engine.building import build_model, load_model
from mmattn.errors import UsageError
from mmattn.measuring.logs import read_training, unit
from mmattn.measuring.tables import markdown
from mmattn.measuring.timing import seconds

ROUNDS = 15     # of the timing, after one that is not timed
IN_PROCESS = dict(num_workers=0, persistent_workers=False)


class Accuracy(NamedTuple):
    """What a test is for: the key of its figures, what tables call it, and how they write it."""
    key: str
    name: str
    form: str


ACCURACIES = [Accuracy('mIoU', 'mIoU', '.1f'), Accuracy('coco/segm_mAP', 'mask AP', '.3f'),
              Accuracy('coco/bbox_mAP', 'box AP', '.3f'), Accuracy('pascal_voc/mAP', 'box AP50', '.3f')]


class Network(NamedTuple):
    """A network to compare: the file of its config, the folder of its trainings, and how it differs from others."""
    name: str
    config: Path
    folder: Path
    note: str = ''

    def training(self, seed: int) -> Path:
        """The work directory of the training from a seed."""
        return self.folder / f'seed_{seed}'


@dataclass(frozen=True)
class Result:
    """What the trainings of a network came to.

    Args:
        network: which.
        figures: of the test, by their names, a record for each seed.
        memory: of a training at its peak, MiB; the median over the seeds.
        parameters: millions.
    """
    network: Network
    figures: Sequence[dict[str, float]]
    memory: float
    parameters: float

    @property
    def accuracy(self) -> Accuracy:
        """What the test is for.

        Raises:
            UsageError: the test says nothing that we know.
        """
        known = [one for one in ACCURACIES if one.key in self.figures[0]]
        if not known:
            raise UsageError(f'{self.network.config}: its test gives {", ".join(self.figures[0]) or "no figure"}; what '
                             f'can be compared is {", ".join(one.key for one in ACCURACIES)}')
        return known[0]

    @property
    def values(self) -> list[float]:
        """The accuracy from each seed."""
        return [figures[self.accuracy.key] for figures in self.figures]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds, as of a sample; 0 of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def count_parameters(network: Network) -> float:
    """Millions of them.

    Raises:
        UsageError: the model cannot be built.
    """
    try:
        return sum(p.numel() for p in build_model(read_config(network.config)).parameters()) / 1e6
    except UsageError as error:
        raise UsageError(f'{network.name}: {error}') from error


def train_and_test(network: Network, seeds: Sequence[int], parameters: float) -> Result:
    """Train and test a network, which has so many million parameters, from every seed; what is finished is not done
    again, what was interrupted goes on.

    Raises:
        UsageError: a training or a test failed, or a test has no figures.
    """
    records = []
    for seed in seeds:
        folder = network.training(seed)
        file = folder / 'result.json'
        if not file.exists():
            file.write_text(json.dumps(run(network.config, folder, seed)))
        records.append(json.loads(file.read_text()))
    return Result(network, [record['figures'] for record in records],
                  statistics.median(record['memory'] for record in records), parameters)


def run(config: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Train and test a config once: the figures of the test, and the peak memory of the training in MiB.

    Raises:
        UsageError: one of both failed, or the test has no figures.
    """
    memory = call('train', config, '--work-dir', folder, '--resume', '--cfg-options', f'randomness.seed={seed}')
    call('test', config, (folder / 'last_checkpoint').read_text(), '--work-dir', folder / 'test')
    figures = sorted((folder / 'test').rglob('*.json'), key=lambda path: path.stat().st_mtime)
    if not figures:
        raise UsageError(f'{config}: the test after the training from seed {seed} has no figures; a detector that '
                         'finds nothing has none')
    return dict(figures=json.loads(figures[-1].read_text()), memory=memory)


def call(command: str, *args: str | Path) -> float:
    """Run a command of ours in a process of its own; its peak memory in MiB.

    Raises:
        UsageError: it failed.
    """
    process = subprocess.Popen([sys.executable, '-m', 'mmattn', command, *map(str, args)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UsageError(f'mmattn {command} {args[0]} failed with status {os.waitstatus_to_exitcode(status)}; '
                         'the same command goes on where it stopped')
    return usage.ru_maxrss / 1024


class Times(NamedTuple):
    """Seconds of a training step and of a test image."""
    training: float
    testing: float


def time_in_turn(networks: Sequence[Network], seed: int) -> list[Times]:
    """Time trained networks; they go round step by step, so that a busy spell of the machine does not fall on one.

    Returns:
        the medians of each.
    """
    cfgs = [read_config(network.config) for network in networks]
    models = [load_model(cfg, (network.training(seed) / 'last_checkpoint').read_text())
              for cfg, network in zip(cfgs, networks)]
    wrappers = [build_optim_wrapper(model, cfg.optim_wrapper) for model, cfg in zip(models, cfgs)]
    batches, images = ([first_batch(cfg, split) for cfg in cfgs] for split in ('train', 'test'))
    steps = (lambda i: models[i].train().train_step(batches[i], wrappers[i]),
             torch.no_grad()(lambda i: models[i].eval().test_step(images[i])))
    times: list[list[Times]] = [[] for _ in models]
    for _ in range(1 + ROUNDS):
        for i, taken in enumerate(times):
            device = next(models[i].parameters()).device
            taken.append(Times(*(seconds(partial(step, i), device) for step in steps)))
    count = [len(batch['inputs']) for batch in images]
    return [Times(statistics.median(one.training for one in taken[1:]),
                  statistics.median(one.testing for one in taken[1:]) / n) for taken, n in zip(times, count)]


def first_batch(cfg: Config, split: str) -> Any:
    """The first batch of a split, the same for every network that has the same data."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return next(iter(Runner.build_dataloader({**cfg[f'{split}_dataloader'], **IN_PROCESS}, seed=0)))


def chance(one: Sequence[float], other: Sequence[float]) -> float:
    """How often seeds alone would set two networks that are equally good at least so far apart: p of Welch's t-test;
    nan where neither has a spread."""
    from scipy.stats import ttest_ind  # here: it comes with mmdet and mmseg
    if len({*one}) == len({*other}) == 1:
        return float('nan')
    return float(ttest_ind(one, other, equal_var=False).pvalue)


def table(results: Sequence[Result], times: Sequence[Times]) -> str:
    """The results as Markdown, the most accurate first: with several seeds the mean and the standard deviation, every
    one, and how far from those of the first network they are."""
    first, accuracy = results[0], results[0].accuracy
    count = len(first.figures)
    many = [f'{accuracy.name}, mean and deviation', f'each of {count} seeds', f'beside {first.network.name}', 'p']
    head = ['network', *(many if count > 1 else [accuracy.name]), 'training, s per step', 'testing, s per image',
            'peak memory, MiB', 'parameters, M']
    lines = []
    for result, time in sorted(zip(results, times), key=lambda pair: -pair[0].mean):
        values = [f'{value:{accuracy.form}}' for value in result.values]
        if count > 1:
            apart = ['', ''] if result is first else [
                f'{result.mean - first.mean:+{accuracy.form}}', f'{chance(result.values, first.values):.2g}']
            values = [f'{result.mean:{accuracy.form}} ± {result.spread:{accuracy.form}}', ', '.join(values), *apart]
        lines.append([result.network.name, *values, f'{time.training:.3f}',
                      f'{time.testing:.3f}', f'{result.memory:.0f}', f'{result.parameters:.2f}'])
    return markdown(head, lines)


def draw(results: Sequence[Result], times: Sequence[Times], path: Path) -> None:
    """Accuracy, with its spread, over training time, peak memory and parameters."""
    from matplotlib.figure import Figure
    figure = Figure((15, 4), layout='constrained')
    axes = figure.subplots(1, 3, sharey=True)
    for axis, name, of in zip(axes, ('training, s per step', 'peak memory, MiB', 'parameters, M'), (
            lambda i: times[i].training, lambda i: results[i].memory, lambda i: results[i].parameters)):
        for i, result in enumerate(results):
            axis.errorbar(of(i), result.mean, result.spread or None, fmt='os'[i // 10 % 2], markersize=8, capsize=4,
                          color=f'C{i % 10}', label=result.network.name)
        axis.set_xlabel(name)
        axis.margins(0.15)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f'{results[0].accuracy.name} of the test')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right center')
    figure.savefig(path, dpi=150)


def draw_curves(results: Sequence[Result], seeds: Sequence[int], path: Path) -> bool:
    """The accuracy at each validation: a thin line for each seed, a thick one for their mean.

    Returns:
        whether there was more than one validation to draw.
    """
    from matplotlib.figure import Figure
    figure = Figure((8, 4.5), layout='constrained')
    axes = figure.subplots()
    accuracy = results[0].accuracy
    trainings = [[read_training(result.network.training(seed)) for seed in seeds] for result in results]
    for i, (result, ones) in enumerate(zip(results, trainings)):
        curves = [one.curve(accuracy.key) for one in ones]
        for curve in curves:
            axes.plot(*curve, color=f'C{i % 10}', linewidth=0.6, alpha=0.5)
        means = [statistics.fmean(values) for values in zip(*(curve.values for curve in curves))]
        axes.plot(curves[0].steps[:len(means)], means, color=f'C{i % 10}', marker='.', label=result.network.name)
    everyone = [one for ones in trainings for one in ones]
    axes.set_xlabel(unit(everyone, accuracy.key))
    axes.set_ylabel(f'{accuracy.name} of the validation')
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    several = any(len(one.curve(accuracy.key).steps) > 1 for one in everyone)
    if several:
        figure.savefig(path, dpi=120)
    return several
