"""Check the data set of a config before training.

Prints what there is, 'warning: …' for what training survives, 'problem: …' for the rest; the exit status is 1 where
there is a problem.
"""
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmattn.commands.options import add_config, changed_config
from mmattn.config import SPLITS
from mmattn.datasets.checking import check


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=SPLITS, help='default: all')
    parser.add_argument('--limit', type=int, default=200, metavar='N',
                        help='most images of a data set to decode, spread over it; 0: all; default %(default)s')
    parser.add_argument('--out', metavar='PICTURE.png',
                        help='picture of a training batch; default work_dirs/check_data/<name of the config>.png')


def run(args: Namespace) -> int:
    problems = 0
    out = args.out or Path('work_dirs/check_data') / f'{Path(args.config).stem}.png'
    for finding in check(changed_config(args), out, args.split, args.limit):
        print(finding, flush=True)
        problems += finding.level == 'problem'
    print(f'{problems} problem(s)')
    return int(problems > 0)
