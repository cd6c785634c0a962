"""Measure time and peak memory of a layer or a backbone.

Every figure is measured in processes of its own, one after the other, several times. For example

    mmattn benchmark dat --layer --dim 384 --heads 12 --groups 3 --size 50 80
"""
import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, fields
from typing import Any

from mmattn.errors import UsageError
from mmattn.measuring.benchmark import ROWS, Case, measure_rows


def add_arguments(parser: ArgumentParser) -> None:
    parser.epilog = 'rows: ' + '; '.join(f'{name}: {what}' for name, what in ROWS.items())
    parser.add_argument('family', choices=['dat', 'dat_pp', 'biformer', 'crossformer', 'crossformer_pp'])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--layer', action='store_true', help='one layer of attention: deformable, routing, long distance')
    what.add_argument('--arch', choices=['tiny', 'small', 'base', 'large', 'stl'], help='a whole backbone')
    parser.add_argument('--size', type=int, nargs=2, default=(50, 80), metavar=('H', 'W'), help='of the map or image')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--train', action='store_true', help='forward + backward as well')
    parser.add_argument('--with-cp', action='store_true', help='recompute blocks of a backbone in the backward pass')
    parser.add_argument('--rows', nargs='+', choices=ROWS, help='default: reference, mmattn, and no-bias for a layer')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--repeat', type=int, default=3, help='processes per row; figures are medians over them')
    parser.add_argument('--iterations', type=int, default=3, help='timed runs per process, after one untimed')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.add_argument('--windows', type=int, default=16, help='biformer: regions along each side')
    layer = parser.add_argument_group('layer')
    layer.add_argument('--dim', type=int, default=384, help='channels')
    layer.add_argument('--heads', type=int, default=12)
    layer.add_argument('--groups', type=int, default=3, help='offset groups')
    layer.add_argument('--stride', type=int, default=1, help='pixels per sampled point')
    layer.add_argument('--table', type=int, default=14, help='map side that the bias table was made for')
    layer.add_argument('--topk', type=int, default=4, help='biformer: regions that a region attends to')
    layer.add_argument('--interval', type=int, default=8, help='crossformer: pixels between the tokens of a group')


def run(args: Namespace) -> None:
    case = Case(**{field.name: getattr(args, field.name) for field in fields(Case)})
    if not case.is_deformable_layer and args.rows and 'no-bias' in args.rows:
        raise UsageError('no-bias is a row for --layer of dat and dat_pp')
    if case.layer and args.rows and 'swin-t' in args.rows:
        raise UsageError('swin-t is a row for --arch')
    if min(*args.size, args.batch, args.repeat, args.iterations) < 1:
        raise UsageError('--size, --batch, --repeat and --iterations must be at least 1')
    rows = args.rows or ['reference', 'mmattn', *(['no-bias'] if case.is_deformable_layer else [])]
    table = measure_rows(case, rows, args.repeat)
    if args.json:
        print(json.dumps(dict(asdict(case), repeat=args.repeat, table=table), indent=1))
    else:
        print_table(case, args.repeat, table)


def print_table(case: Case, repeat: int, table: list[dict[str, Any]]) -> None:
    parts = dict(biformer=f'{case.windows} windows a side, top {case.topk}',
                 crossformer=f'groups of 7 x 7, interval {case.interval}').get(
                     case.family.removesuffix('_pp'), f'{case.groups} groups')
    what = f'layer {case.dim} channels, {case.heads} heads, {parts}' if case.layer else case.arch
    first = table[0]
    print(f'{case.family} {what}, {case.batch} x {case.size[0]} x {case.size[1]}, {case.device}, '
          f'{first.get("threads", "?")} threads, medians of {repeat} x {case.iterations}')
    columns = [('forward', 'forward')] + ([('forward + backward', 'train')] if case.train else [])
    print('| row |' + ''.join(f' {title} | ratio | added memory |' for title, _ in columns) + ' differs by |')
    print('|---|' + '---|---|---|' * len(columns) + '---|')
    for row in table:
        if 'refused' in row:
            print(f'| {row["row"]} |' + ' | | |' * len(columns) + f' {row["refused"]} |')
            continue
        cells = []
        for _, key in columns:
            seconds, used = row[f'{key}_seconds'], row[f'{key}_bytes']
            ratio = f'{first[f"{key}_seconds"] / seconds:.1f} x' if 'refused' not in first else ''
            cells.append(f' {seconds:.3f} s | {ratio} |' + (' |' if used is None else f' {used / 2 ** 20:.0f} MiB |'))
        print(f'| {row["row"]} |' + ''.join(cells) + (f' {row["difference"]:.1e} |' if 'difference' in row else ' |'))
