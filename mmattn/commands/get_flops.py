"""Count parameters and multiply-adds of a config's model.

For one image in inference. A multiply-add counts once, as in the papers: those of convolutions and matrix products, of
the two products of attention, and four for each value that is sampled bilinearly. Norms, activations, softmax and
interpolation do not count. Attention counts by its formula, whichever implementation would run. A two-stage detector
has 1000 proposals in its box heads and 100 in its mask heads, RoIAlign not counted; an auxiliary head has parameters
but nothing to do in inference. What lies behind the neck of a DETR, and the head of a Mask2Former, is called on random
maps, and counts as one part.
"""
from argparse import ArgumentParser, Namespace

from mmattn.commands.options import add_config, changed_config
from mmattn.config import LIBRARIES, check_scope
from mmattn.errors import UsageError
from mmattn.measuring.flops import SHAPES, Count, count_model
from mmattn.measuring.tables import markdown


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='of the image; default 800 1280 for detection, 512 2048 for segmentation, 224 224 for '
                             'classification')


def run(args: Namespace) -> None:
    if args.shape and min(args.shape) < 1:
        raise UsageError(f'--shape {args.shape[0]} {args.shape[1]}: both sides must be at least 1')
    cfg = changed_config(args)
    check_scope(cfg, 'counted', LIBRARIES)
    shape = args.shape or SHAPES[cfg.default_scope]
    counts = count_model(cfg, shape)
    counts['total'] = sum(counts.values(), Count())
    print(f'{args.config}, 1 x 3 x {shape[0]} x {shape[1]}')
    lines = []
    for name, count in counts.items():
        figures = [count.total, count.attention, count.sampling, count.total - count.attention]
        lines.append((name, f'{count.parameters / 1e6:.2f}', *(f'{n / 1e9:.1f}' for n in figures)))
    print(markdown(['part', 'parameters, M', 'multiply-adds, G', 'of these attention', 'of these sampling',
                    'without attention'], lines))
