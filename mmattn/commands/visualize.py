"""Draw what a model attends to.

For each image a folder of pictures: the predictions, the sampled points of deformable attention over them, what a query
attends to, its routed regions and its groups, and all of them in a grid.
"""
from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes

from mmattn.commands.options import add_config, add_score, add_trust
from mmattn.config import check_scope
from mmattn.errors import ArgumentError, UsageError
from mmattn.inference import Inferencer
from mmattn.visualization import Record, record_attention
from mmattn.visualization.drawing import new_figure
from mmattn.visualization.panels import Choice, Found, draw_grid, panels
from mmattn.visualization.viewer import query_positions, write_viewer

KEYS = 20       # of a query and head, on the page of --html


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    add_config(parser)
    add_trust(parser)
    parser.add_argument('checkpoint', help="checkpoint file, ours or the authors'; 'random' for an untrained model")
    parser.add_argument('--query', nargs=2, type=float, action='append', metavar=('X', 'Y'),
                        help='a query, in pixels of the image; several allowed. Default: the middle of what the model '
                             'is surest of')
    parser.add_argument('--beside', nargs=2, action='append', default=[], metavar=('CONFIG', 'CHECKPOINT'),
                        help='another model whose attention is drawn beside this one; several allowed')
    parser.add_argument('--layer', default='', metavar='REGEX',
                        help='draw the layers whose address matches; default: of the stage with stride 16, the last '
                             'layer of each kind')
    parser.add_argument('--head', type=int, help='attention of this head; default: the mean over heads')
    parser.add_argument('--group', type=int, help='points of this offset group; default: all')
    parser.add_argument('--most', type=int, default=300,
                        help='points of a layer to draw, the most attended; default 300')
    parser.add_argument('--ground-truth', action='store_true',
                        help='draw over the ground truth instead of the predictions; images of the test data set only')
    add_score(parser)
    parser.add_argument('--out-dir', help='default work_dirs/visualize/<name of the config>')
    parser.add_argument('--html', metavar='FILE', help='write a page to look around in, for one image')


def run(args: Namespace) -> None:
    if args.html and len(args.images) > 1:
        raise UsageError(f'--html takes one image, and there are {len(args.images)}')
    images = {path: read_image(path) for path in args.images}
    trust = args.trust_checkpoint
    models = [Inferencer(args.config, args.checkpoint, options=args.cfg_options, trust_checkpoint=trust),
              *(Inferencer(*pair, trust_checkpoint=trust) for pair in args.beside)]
    for model in models:
        check_scope(model.cfg, 'drawn')
    out = Path(args.out_dir or Path('work_dirs/visualize') / models[0].name)
    choice = Choice(bool(args.layer), args.most, args.head, args.group)
    for path, image in images.items():
        batches = [model.batch([path]) for model in models]
        if args.ground_truth:
            batches[0] = models[0].annotated(path)
        sample = batches[0]['data_samples'][0] if args.ground_truth else models[0].run(batches[0])[0]
        found = Found(sample, models[0].classes, args.ground_truth, args.score, models[0].palette)
        queries = args.query or [found.middle(image.shape[:2])]
        records = attention(models, batches, queries, args.layer)
        grid = write(list(panels(image, found, records, choice)), image.shape[:2], out / Path(path).stem)
        print(f'wrote {grid} and the pictures in it', flush=True)
    if args.html:
        everywhere = query_positions(image.shape[:2])
        write_viewer(args.html, image, attention(models, batches, everywhere, args.layer, top=KEYS), top=KEYS)
        print(f'wrote {args.html}')


def attention(models: Sequence[Inferencer], batches: Sequence[Any], queries: Sequence[tuple[float, float]], layer: str,
              **options: Any) -> dict[str, list[Record]]:
    """The records of each model by its name.

    Raises:
        UsageError: no layer matches, or a query is outside the image.
    """
    recorded: dict[str, list[Record]] = {}
    for model, batch in zip(models, batches):
        same = sum(name.startswith(model.name) for name in recorded)
        try:
            with record_attention(model.net, queries, layer, **options) as records:
                model.run(batch)
        except ArgumentError as error:
            raise UsageError(f'{model.name}: {error}') from error
        recorded[model.name + (f' ({same + 1})' if same else '')] = records
    return recorded


def read_image(path: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as OpenCV turns it.

    Raises:
        UsageError: there is no such file, or it is no image.
    """
    if not Path(path).is_file():
        raise UsageError(f'image not found: {Path(path).absolute()}')
    image = cv2.imread(str(path))
    if image is None:
        raise UsageError(f'{Path(path).absolute()} is not an image that OpenCV can read')
    return image[..., ::-1]


def write(pictures: Sequence[tuple[str, Callable[[Axes], None]]], size: tuple[int, int], folder: Path) -> Path:
    """Each picture alone, and the grid of them, whose path is returned.

    Raises:
        UsageError: there is no such head or offset group.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures:
        figure, axes = new_figure(1, 1, size, width=8)
        try:
            draw(axes[0, 0])
        except ArgumentError as error:
            raise UsageError(error) from error
        figure.savefig(folder / f'{name}.png', dpi=150)
    draw_grid(pictures, size).savefig(folder / 'grid.png', dpi=100)
    return folder / 'grid.png'
