"""What a training wrote down while it ran: losses, learning rates and validation figures, a resumed one as a whole."""
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from mmattn.errors import UsageError

Line = dict[str, float]         # the numbers of one line of a log, by name
PATTERN = '*/vis_data/scalars.json'         # of a run, in a work directory; the folder's name is the time of its start
MAIN = 'mAP', 'bbox_mAP', 'segm_mAP', 'mIoU', 'mDice', 'accuracy/top1'       # ends of names: what a validation is for


class Curve(NamedTuple):
    """The values of a figure, and where in the training they were taken."""
    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Training:
    """A training from its start, of one run or of several that go on where another stopped.

    Args:
        name: the work directory or file.
        lines: of its log, in order.
        runs: how many it took.
        left_out: earlier trainings in the same work directory.
    """
    name: str
    lines: Sequence[Line]
    runs: int
    left_out: int = 0

    @property
    def keys(self) -> list[str]:
        """Names of all figures, in the order of their appearance."""
        return list(dict.fromkeys(key for line in self.lines for key in line if key not in ('iter', 'step', 'epoch')))

    @property
    def main_keys(self) -> list[str]:
        """The loss, the learning rate, and what the validation is for."""
        return [key for key in ('loss', 'lr') if key in self.keys] + [key for key in self.keys if key.endswith(MAIN)]

    def curve(self, key: str) -> Curve:
        """A figure over iterations; one of the validation over what MMEngine counts there, epochs or iterations."""
        # a key such as 'time' is in both kinds of lines: that of training steps is meant
        found = [line for line in self.lines if key in line]
        found = [line for line in found if is_step(line)] or found
        return Curve([line['iter'] if is_step(line) else line['step'] for line in found], [line[key] for line in found])


def is_step(line: Line) -> bool:
    """Whether a line is of training steps, and not of a validation."""
    return 'iter' in line


def unit(trainings: Sequence[Training], key: str) -> str:
    """What a figure is drawn over: MMEngine counts epochs at a validation where it trains by epochs."""
    lines = [(training, line) for training in trainings for line in training.lines if key in line]
    if any(is_step(line) for _, line in lines):
        return 'iteration'
    by_epoch = {any('epoch' in step for step in training.lines) for training, _ in lines}
    return 'epoch or iteration' if len(by_epoch) > 1 else 'epoch' if True in by_epoch else 'iteration'


def read_training(path: str | os.PathLike[str]) -> Training:
    """Read the log of a training.

    Args:
        path: a work directory, whose last training is meant; a folder of one run in it; or a scalars.json.

    Raises:
        UsageError: there is none, or it is empty.
    """
    given = Path(path)
    files = [given] if given.is_file() else [
        file for pattern in (PATTERN, 'vis_data/scalars.json', 'scalars.json') for file in sorted(given.glob(pattern))]
    if not files:
        raise UsageError(f'no log of a training in {path}: there is no {PATTERN}')
    trainings = list(joined(str(path), files))
    if not trainings:
        raise UsageError(f'{path}: nothing was logged before the training ended')
    last = trainings[-1]
    return Training(last.name, last.lines, last.runs, len(trainings) - 1)


def joined(name: str, files: Iterable[Path]) -> Iterator[Training]:
    """The trainings that runs belong to, in order: a resumed one takes the place of what came after its start."""
    lines: list[Line] = []
    runs = 0
    for file in files:
        found = list(read_lines(file))
        if not found:
            continue
        if lines and not goes_on(file, found, lines):
            yield Training(name, lines, runs)
            lines, runs = [], 0
        kept = before(first_step(found), lines)
        lines, runs = kept + found, runs + 1 if kept else 1
    if lines:
        yield Training(name, lines, runs)


def goes_on(file: Path, found: Sequence[Line], lines: Sequence[Line]) -> bool:
    """Whether a run was resumed: as its config beside the log says, or else as its first step does."""
    config = file.with_name('config.py')
    if config.is_file():
        return re.search(r'^resume = True$', config.read_text(), re.MULTILINE) is not None
    return first_step(found) > first_step(lines)


def before(step: float, lines: Sequence[Line]) -> list[Line]:
    """The lines that were logged before training reached a step."""
    return list(takewhile(lambda line: line.get('iter', 0) < step, lines))


def first_step(lines: Sequence[Line]) -> float:
    """The iteration of the first line of training steps; infinity without one."""
    return next((line['iter'] for line in lines if is_step(line)), float('inf'))


def read_lines(file: Path) -> Iterator[Line]:
    """The numbers in the lines of a log; the last line may have been cut when the training was killed.

    Raises:
        UsageError: another line is not of such a log.
    """
    texts = file.read_text().splitlines()
    for i, text in enumerate(texts):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = {} if i == len(texts) - 1 else None
        if not isinstance(line, dict):
            raise UsageError(f'{file} is not a log of scalars: line {i + 1} is {text[:60]!r}')
        numbers = {key: value for key, value in line.items() if isinstance(value, (int, float))}
        if 'step' in numbers:
            yield numbers
