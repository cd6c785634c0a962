"""Draw the curves of trainings: loss, learning rate and validation figures.

A training that was resumed is drawn as one, whatever it took; of several in a work directory, the last. Prints a table
of where each figure started and ended, and its extremes.
"""
import csv
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from mmattn.errors import UsageError, some
from mmattn.measuring.logs import Training, is_step, read_training, unit
from mmattn.measuring.tables import markdown

TABLE = 'training', 'figure', 'from', 'to', 'first', 'last', 'lowest', 'highest'


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('logs', nargs='+', metavar='WORK_DIR|scalars.json', help='a training each')
    parser.add_argument('--keys', nargs='+', metavar='NAME',
                        help='what to draw, such as loss_cls coco/bbox_mAP_50; default: loss, lr, mAP or mIoU')
    parser.add_argument('--out', default='curves.png', metavar='PICTURE.png', help='default %(default)s')
    parser.add_argument('--csv', metavar='FILE.csv', help='also write every number, a row for each line of the logs')


def run(args: Namespace) -> None:
    trainings = [read_training(log) for log in args.logs]
    keys = chosen(trainings, args.keys)
    print(table(trainings, keys))
    for training in trainings:
        if training.runs > 1:
            print(f'{training.name}: {training.runs} runs joined')
        if training.left_out:
            print(f'{training.name}: the last of {training.left_out + 1} trainings; name the scalars.json of another')
    try:
        draw(trainings, keys, Path(args.out))
        if args.csv:
            write_csv(trainings, Path(args.csv))
    except (OSError, ValueError) as error:
        raise UsageError(f'{args.out} or {args.csv} cannot be written: {error}' if args.csv else
                         f'{args.out} cannot be written: {error}') from error
    print('wrote ' + ' and '.join(filter(None, (args.out, args.csv))))


def chosen(trainings: Sequence[Training], wanted: Sequence[str] | None) -> list[str]:
    """The figures to draw.

    Raises:
        UsageError: no log has one of them.
    """
    known = list(dict.fromkeys(key for training in trainings for key in training.keys))
    for key in wanted or ():
        if key not in known:
            near = get_close_matches(key, known) or known
            raise UsageError(f'--keys {key}: no such figure; there are {some(near, 20)}')
    return list(wanted or dict.fromkeys(key for training in trainings for key in training.main_keys))


def table(trainings: Sequence[Training], keys: Sequence[str]) -> str:
    """Where figures started and ended, and their extremes, in Markdown."""
    lines = []
    for training in trainings:
        for key in keys:
            steps, values = training.curve(key)
            if values:
                lines.append((training.name, key, f'{steps[0]:g}', f'{steps[-1]:g}', *(
                    f'{value:.4g}' for value in (values[0], values[-1], min(values), max(values)))))
    return markdown(TABLE, lines)


def draw(trainings: Sequence[Training], keys: Sequence[str], path: Path) -> None:
    """A panel for each figure, a colour for each training."""
    from matplotlib.figure import Figure
    columns = 2 if len(keys) == 4 else min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure((4 * columns, 3 * rows + 0.3 * len(trainings)), layout='constrained', dpi=110)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, key in zip(panels, keys):
        for i, training in enumerate(trainings):
            curve = training.curve(key)
            axes.plot(*curve, color=f'C{i % 10}', linestyle=('-', '--', ':')[i // 10 % 3], label=training.name,
                      marker='.', markersize=12 if len(curve.steps) == 1 else 4)
        axes.set_title(key, fontsize=10)
        axes.set_xlabel(unit(trainings, key))
        axes.grid(alpha=0.3)
    for axes in panels[len(keys):]:
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower left', frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def write_csv(trainings: Sequence[Training], path: Path) -> None:
    """Every number: a row for each line of the logs, a column for each name."""
    rows = [dict(training=training.name, phase='train' if is_step(line) else 'val', **line)
            for training in trainings for line in training.lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
