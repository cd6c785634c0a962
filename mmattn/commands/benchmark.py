"""Measure time and peak memory of a layer, a backbone, or a whole detector or segmentor.

Every figure is measured in processes of its own, one after the other, several times. For example

    mmattn benchmark dat --layer --dim 384 --heads 12 --groups 3 --size 50 80
    mmattn benchmark CONFIG CHECKPOINT --image photo.jpg --size 800 1280

That of a config is a step of its test: images are moved and normalized, go through the network, and boxes, masks or
label maps are made of what comes out. Reading and resizing are not in it. How long boxes and masks take depends on how
many there are, so give a checkpoint and an image where that matters.
"""
import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, fields
from typing import Any

import torch
from mmengine.config import DictAction

from mmattn.commands.options import CFG_OPTIONS_HELP
from mmattn.config import check_scope, read_config
from mmattn.engine.building import RANDOM, check_weights
from mmattn.errors import UsageError
from mmattn.measuring.benchmark import FAMILIES, ROWS, Case, measure_rows
from mmattn.measuring.flops import SHAPES
from mmattn.measuring.latency import Latency, measure_apart
from mmattn.measuring.tables import markdown

OF_PARTS = 'layer', 'arch', 'train', 'with_cp', 'rows'           # options of layers and backbones alone
OF_CONFIGS = 'checkpoint', 'image', 'cfg_options'         # and of configs


def add_arguments(parser: ArgumentParser) -> None:
    parser.epilog = 'rows: ' + '; '.join(f'{name}: {what}' for name, what in ROWS.items())
    parser.add_argument('what', metavar='FAMILY|CONFIG', help=f'{", ".join(FAMILIES)}; or a config')
    parser.add_argument('checkpoint', nargs='?', help='of a config; without one, the weights that training starts from')
    parser.add_argument('--size', '--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='of the map or image; default 50 80, of a config 800 1280 or for segmentation 512 2048')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--repeat', type=int, default=3, help='processes per row; figures are medians over them')
    parser.add_argument('--iterations', type=int, default=3, help='timed runs per process, after one untimed')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    whole = parser.add_argument_group('config')
    whole.add_argument('--image', metavar='FILE', help='resized to --size; default random numbers')
    whole.add_argument('--cfg-options', nargs='+', action=DictAction, help=CFG_OPTIONS_HELP)
    part = parser.add_argument_group('layer or backbone')
    kind = part.add_mutually_exclusive_group()
    kind.add_argument('--layer', action='store_true', help='one layer of attention: deformable, routing, long distance')
    kind.add_argument('--arch', choices=['tiny', 'small', 'base', 'large', 'stl'], help='a whole backbone')
    part.add_argument('--train', action='store_true', help='forward + backward as well')
    part.add_argument('--with-cp', action='store_true', help='recompute blocks of a backbone in the backward pass')
    part.add_argument('--rows', nargs='+', choices=ROWS, help='default: reference, mmattn, and no-bias for a layer')
    part.add_argument('--windows', type=int, default=16, help='biformer, debiformer: regions along each side')
    layer = parser.add_argument_group('layer')
    layer.add_argument('--dim', type=int, default=384, help='channels')
    layer.add_argument('--heads', type=int, default=12)
    layer.add_argument('--groups', type=int, default=3, help='offset groups')
    layer.add_argument('--stride', type=int, default=1, help='pixels per sampled point')
    layer.add_argument('--table', type=int, default=14, help='map side that the bias table was made for')
    layer.add_argument('--topk', type=int, default=4, help='biformer, debiformer: regions that a region attends to')
    layer.add_argument('--interval', type=int, default=8, help='crossformer: pixels between the tokens of a group')


def run(args: Namespace) -> None:
    if min(*(args.size or (1, 1)), args.batch, args.repeat, args.iterations) < 1:
        raise UsageError('--size, --batch, --repeat and --iterations must be at least 1')
    is_part = args.what in FAMILIES
    for name in OF_CONFIGS if is_part else OF_PARTS:
        if getattr(args, name):
            option = name if name == 'checkpoint' else f'--{name.replace("_", "-")}'
            raise UsageError(f'{option} is for {"a config" if is_part else "a layer or backbone"}, and {args.what} is '
                             f'{"a family" if is_part else "a config"}')
    (run_part if is_part else run_whole)(args)


def run_whole(args: Namespace) -> None:
    """Measure the model of a config."""
    cfg = read_config(args.what, args.cfg_options)
    check_scope(cfg, 'measured')
    check_weights(cfg, args.checkpoint or RANDOM)
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise UsageError(f'--device {args.device}: there is no GPU')
    task = Latency(config=args.what, checkpoint=args.checkpoint or RANDOM, image=args.image,
                   size=tuple(args.size or SHAPES[cfg.default_scope]), batch=args.batch, device=args.device,
                   iterations=args.iterations, options=args.cfg_options or {})
    found = measure_apart(task, args.repeat)
    if args.json:
        print(json.dumps(dict(asdict(task), repeat=args.repeat, **found), indent=1))
        return
    print(f'{args.what}, {args.batch} x 3 x {task.size[0]} x {task.size[1]}, {args.device}, {found["threads"]:g} '
          f'threads, medians of {args.repeat} x {args.iterations}')
    print(markdown(['a step of the test', 'images a second', 'added memory', 'detections'],
                   [(f'{found["seconds"]:.3f} s', f'{args.batch / found["seconds"]:.2f}',
                     f'{found["bytes"] / 2 ** 20:.0f} MiB', f'{found["found"]:g}')]))


def run_part(args: Namespace) -> None:
    """Measure a layer or a backbone in several ways."""
    if not args.layer and not args.arch:
        raise UsageError(f'{args.what}: --layer or --arch must say what of the family to measure')
    args.family, args.size = args.what, tuple(args.size or (50, 80))
    case = Case(**{field.name: getattr(args, field.name) for field in fields(Case)})
    if not case.is_deformable_layer and args.rows and 'no-bias' in args.rows:
        raise UsageError('no-bias is a row for --layer of dat and dat_pp')
    if case.layer and args.rows and 'swin-t' in args.rows:
        raise UsageError('swin-t is a row for --arch')
    rows = args.rows or ['reference', 'mmattn', *(['no-bias'] if case.is_deformable_layer else [])]
    table = measure_rows(case, rows, args.repeat)
    if args.json:
        print(json.dumps(dict(asdict(case), repeat=args.repeat, table=table), indent=1))
    else:
        print_table(case, args.repeat, table)


def print_table(case: Case, repeat: int, table: list[dict[str, Any]]) -> None:
    parts = FAMILIES[case.family].parts(case)
    what = f'layer {case.dim} channels, {case.heads} heads, {parts}' if case.layer else case.arch
    first = table[0]
    print(f'{case.family} {what}, {case.batch} x {case.size[0]} x {case.size[1]}, {case.device}, '
          f'{first.get("threads", "?")} threads, medians of {repeat} x {case.iterations}')
    columns = {'forward': 'forward'} | ({'forward + backward': 'train'} if case.train else {})
    titles = [cell for title in columns for cell in (title, 'ratio', 'added memory')]
    lines = []
    for row in table:
        cells: list[str] = []
        for key in columns.values():
            if 'refused' in row:
                cells += [''] * 3
                continue
            seconds, used = row[f'{key}_seconds'], row[f'{key}_bytes']
            ratio = f'{first[f"{key}_seconds"] / seconds:.1f} x' if 'refused' not in first else ''
            cells += [f'{seconds:.3f} s', ratio, '' if used is None else f'{used / 2 ** 20:.0f} MiB']
        differs = f'{row["difference"]:.1e}' if 'difference' in row else ''
        lines.append([row['row'], *cells, row.get('refused', differs)])
    print(markdown(['row', *titles, 'differs by'], lines))
