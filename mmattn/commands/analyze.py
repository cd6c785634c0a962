"""What a model takes for what: figures of each class, and a confusion matrix.

PREDICTIONS is what `mmattn test --out` wrote: a pickle, or for segmentation a folder of label maps, which takes less
space. Of a detector, an object is found by the box of the highest score on it, whatever the class of the box. Reading a
pickle runs code that it carries: read your own.
"""
import csv
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np

from mmattn.commands.options import add_config, changed_config
from mmattn.config import is_segmentation
from mmattn.errors import UsageError
from mmattn.measuring.confusion import BACKGROUND, Confusion, confusion
from mmattn.measuring.tables import markdown

READABLE = 25       # classes, up to which a matrix has numbers in it


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('predictions', metavar='PREDICTIONS', help='what test --out wrote')
    parser.add_argument('--score', type=float, default=0.3, help='lowest score of a detection; default %(default)s')
    parser.add_argument('--iou', type=float, default=0.5,
                        help='least overlap of a box with an object that it finds; default %(default)s')
    parser.add_argument('--out', metavar='DIR', help='default work_dirs/analyze/<name of the config>')


def run(args: Namespace) -> None:
    for name in ('score', 'iou'):
        if not 0 <= getattr(args, name) <= 1:
            raise UsageError(f'--{name} {getattr(args, name)}: must be from 0 to 1')
    cfg = changed_config(args)
    found = confusion(cfg, args.predictions, args.score, args.iou)
    pixels = is_segmentation(cfg)
    text = f'{found.images} image(s) of {args.config}' + (
        '' if pixels else f', boxes of score {args.score:g} or more, IoU {args.iou:g}')
    print(f'{text}\n\n{table(found, pixels)}\n')
    if pixels:
        print(f'mIoU {100 * np.nanmean(found.iou):.2f}\n')
    if found.without:
        print(f'{found.without} image(s) of the test data without prediction are left out')
    out = Path(args.out or Path('work_dirs/analyze') / Path(args.config).stem)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(found, out / 'confusion.csv')
    draw(found, text, out / 'confusion.png')
    print(f'wrote {out / "confusion.csv"} and {out / "confusion.png"}')


def table(found: Confusion, pixels: bool) -> str:
    """The figures of each class in Markdown; the overlap of classes is one for label maps alone."""
    figures = {'recall, %': found.recall, 'precision, %': found.precision, **({'IoU, %': found.iou} if pixels else {})}
    lines = []
    for i, name in enumerate(found.classes):
        if name == BACKGROUND:
            continue
        cells = ['–' if np.isnan(values[i]) else f'{100 * values[i]:.1f}'
                 for values in figures.values()]
        lines.append((name, str(found.counts[i].sum()), *cells, mistaken(found, i)))
    return markdown(['class', 'pixels' if pixels else 'objects', *figures, 'otherwise most often'], lines)


def mistaken(found: Confusion, i: int) -> str:
    """What a class is most often taken for, other than itself."""
    others = found.counts[i] * (np.arange(len(found.classes)) != i)
    most = int(others.argmax())
    return f'{found.classes[most]} {100 * found.shares[i, most]:.1f} %' if others[most] else '–'


def write_csv(found: Confusion, path: Path) -> None:
    """The counts: a row for each true class, a column for each predicted one."""
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['true \\ predicted', *found.classes])
        writer.writerows([name, *row] for name, row in zip(found.classes, found.counts.tolist()))


def draw(found: Confusion, title: str, path: Path) -> None:
    """The shares of each true class as a picture."""
    from matplotlib.figure import Figure
    count = len(found.classes)
    side = max(4.0, min(0.55 * count + 1.5, 20.0))
    figure = Figure((side + 1, side), layout='constrained', dpi=110)
    axes = figure.subplots()
    shares = 100 * found.shares
    picture = axes.imshow(shares, cmap='Blues', vmin=0, vmax=100)
    size = 8 if count <= READABLE else 4
    axes.set_xticks(range(count), found.classes, rotation=90, fontsize=size)
    axes.set_yticks(range(count), found.classes, fontsize=size)
    axes.set(xlabel='predicted', ylabel='true')
    axes.set_title(title, fontsize=8, wrap=True)
    for (row, column), share in np.ndenumerate(shares) if count <= READABLE else ():
        if not np.isnan(share):
            axes.text(column, row, f'{share:.0f}', ha='center', va='center', fontsize=8,
                      color='white' if share > 50 else 'black')
    figure.colorbar(picture, label='% of the true class', shrink=0.8)
    figure.savefig(path)
