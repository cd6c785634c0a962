"""How much of what deformable attention looks at lies on objects.

For every layer of deformable attention, the share inside of the ground truth masks: of the image, which points of
uniform density would reach; of the uniform grid from which the points start; of the sampled points; and of the
attention that these receive. Figures are means over images, all of the same weight, without those that have no ground
truth; differences to the grid come with the standard error of their mean.

In detection the mask of an image is the union of its instances, of their boxes where they have no masks; in
segmentation it is every pixel of a class that is not --background. Points outside of the image are outside of the mask.
Points on crowds and on pixels that are ignored do not count, nor do these pixels.

Writes table.md and plot.png.
"""
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmattn.commands.options import add_config, add_trust, changed_config
from mmattn.config import SPLITS
from mmattn.engine.building import RANDOM
from mmattn.errors import UsageError
from mmattn.measuring.points import analyze
from mmattn.measuring.tables import markdown
from mmattn.openmmlab import choose_checkpoint_reading

COLUMNS = ('weights', 'layer', 'mask area', 'uniform grid', 'points', 'attention', 'points − grid', 'attention − grid')
COLORS = ('#d1495b', '#00798c', '#edae49', '#5b5f97', '#66a182', '#8d6a9f')
GREY = '#8a8f98'


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    add_trust(parser)
    parser.add_argument('checkpoint', nargs='*', default=[RANDOM],
                        help=f"checkpoint files to compare, ours or the authors'; '{RANDOM}', the default, stands for "
                        'the weights that training starts from')
    parser.add_argument('--split', choices=SPLITS, default='test',
                        help='default %(default)s; the images of all go through the pipeline of the test')
    parser.add_argument('--limit', type=int, default=0, metavar='N',
                        help='most images of a data set, spread over it; default all')
    parser.add_argument('--background', nargs='+', metavar='NAME',
                        help="segmentation: classes that are not objects; default 'background'")
    parser.add_argument('--out', metavar='DIR', help='default work_dirs/analyze_points/<name of the config>')


def run(args: Namespace) -> None:
    choose_checkpoint_reading(args.trust_checkpoint)
    if args.limit < 0:
        raise UsageError(f'--limit {args.limit}: a number of images, or 0 for all')
    cfg = changed_config(args)
    name = Path(args.config).stem
    out = Path(args.out or Path('work_dirs/analyze_points') / name)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f'--out {out} cannot be written: {error}') from error
    found = analyze(cfg, args.checkpoint, split=args.split, limit=args.limit, background=args.background)
    images = len(next(iter(next(iter(found.values())).values())))
    title = f'{name}, {args.split}: {images} image{"s" * (images != 1)} with ground truth'
    text = f'{title}; inside of its masks, %\n\n{table(found)}\n'
    (out / 'table.md').write_text(text)
    plot(found, title, out / 'plot.png')
    print(f'{text}\n{out}/table.md, {out}/plot.png')


def table(found: dict[str, dict[str, np.ndarray]]) -> str:
    """A table in Markdown, in percent: means over images, and differences with their standard error."""
    lines = []
    for name, layers in found.items():
        for layer, shares in layers.items():
            cells = [cell(*mean(share)[:1]) for share in shares.T]
            cells += [cell(*mean(shares[:, column] - shares[:, 1]), sign='+') for column in (2, 3)]
            lines.append((name, layer, *cells))
    return markdown(COLUMNS, lines)


def mean(shares: np.ndarray) -> tuple[float, float]:
    """Mean over the images where something counts, and its standard error, in percent; nan where there is none."""
    shares = 100 * shares[~np.isnan(shares)]
    return (shares.mean() if len(shares) else np.nan,
            shares.std(ddof=1) / len(shares) ** 0.5 if len(shares) > 1 else np.nan)


def cell(value: float, error: float = np.nan, sign: str = '') -> str:
    """A figure, with its error if there is one."""
    if np.isnan(value):
        return '–'
    value = round(value, 1) + 0.0       # no -0.0
    return f'{value:{sign}.1f}' + ('' if np.isnan(error) else f' ± {error:.1f}')


def plot(found: dict[str, dict[str, np.ndarray]], title: str, path: Path) -> None:
    """Draw points and attention by layer, a line for each checkpoint, beside the uniform grid.

    The bars are the standard errors of the differences to the grid.
    """
    first = next(iter(found.values()))
    ticks = [layer.removeprefix('backbone.').removesuffix('.attn') for layer in first]
    at = np.arange(len(ticks))
    area, grid = ([mean(shares[:, i])[0] for shares in first.values()] for i in (0, 1))
    figure = Figure(figsize=(max(8, 2.4 + 0.9 * len(ticks)), 4.6), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    for axes, column, heading in zip(figure.subplots(1, 2, sharey=True), (2, 3),
                                     ('sampled points', 'attention that the points receive')):
        axes.axhline(area[0], color=GREY, lw=1, ls=':', label='mask area')
        axes.plot(at, grid, color=GREY, lw=1.5, marker='s', ms=4, label='uniform grid')
        for i, (name, layers) in enumerate(found.items()):
            heights = [mean(shares[:, column])[0] for shares in layers.values()]
            errors = [mean(shares[:, column] - shares[:, 1])[1] for shares in layers.values()]
            aside = 0.05 * (i - (len(found) - 1) / 2)       # bars beside each other
            axes.errorbar(at + aside, heights, errors, color=COLORS[i % len(COLORS)], lw=2, marker='o', ms=6, capsize=3,
                          elinewidth=1, label=name)
        axes.set_title(heading, fontsize=11)
        axes.set_xticks(at, ticks, **(dict(rotation=30, ha='right') if len(ticks) > 1 else {}))
        axes.set_xlim(-0.4, len(ticks) - 0.6)
        axes.grid(axis='y', color='#e6e8eb')
        axes.margins(y=0.1)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    figure.axes[0].set_ylabel('inside of ground truth masks, %')
    figure.axes[0].set_ylim(bottom=0)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(len(labels), 4), frameon=False)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path)
