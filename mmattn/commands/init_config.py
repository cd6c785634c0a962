"""Write a short config for data of your own.

Looks into the folder, takes the model and the optimizer of a config that there is, and writes the rest: where the data
is, the classes, everything that depends on their number, the size of images and the length of the training. Read it,
change it, then `mmattn check-data` and `mmattn train` it.
"""
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmattn.checkpoint.files import check_file
from mmattn.config import check_scope, is_segmentation, read_config
from mmattn.datasets.drafting import Draft, usual_scale, write
from mmattn.datasets.layouts import Layout, check_classes, find_layout
from mmattn.errors import UsageError, some

FORMS = {'coco': 'COCO', 'voc': 'Pascal VOC', 'maps': 'label maps'}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('config', help='with the model and the optimizer: a path, or the name of one of the package')
    parser.add_argument('--data', required=True, metavar='FOLDER',
                        help='COCO or Pascal VOC for a detector, images and label maps for a segmentor')
    parser.add_argument('--classes', nargs='+', metavar='NAME',
                        help='names, for label maps in the order of their values; default: those of the annotations')
    parser.add_argument('--ignore', type=int, metavar='VALUE',
                        help='value of label maps that is not learned, beside 255')
    parser.add_argument('--scale', nargs=2, type=int, metavar=('LONG', 'SHORT'),
                        help='sides of resized images, pixels; default: as the config has them, or the data')
    parser.add_argument('--batch-size', type=int, metavar='N', help='images a step; default: as the config has it')
    parser.add_argument('--epochs', type=int, metavar='N', help='default: 12, or as many as make a thousand steps')
    parser.add_argument('--checkpoint', default='', metavar='FILE', help='whole model that the training starts from')
    parser.add_argument('--out', metavar='FILE.py', help='default: <config>_<folder>.py')


def run(args: Namespace) -> None:
    base = read_config(args.config)
    check_scope(base, 'taken')
    if args.checkpoint:
        check_file(args.checkpoint)
    layout = find_layout(args.data, is_segmentation(base))
    out = Path(args.out or f'{Path(args.config).stem}_{Path(args.data).resolve().name}.py')
    if out.exists():
        raise UsageError(f'{out} is there already; name another file with --out')
    draft = Draft(args.config, base, args.data, layout, chosen(layout, args), args.ignore,
                  tuple(args.scale or usual_scale(base, layout.size)),
                  args.batch_size or base.train_dataloader.batch_size, args.epochs, args.checkpoint)
    write(draft, out)
    read_config(out)
    sizes = ', '.join(f'{split} {part.count}' for split, part in layout.splits.items())
    print(f'{args.data}: {FORMS[layout.form]}, images: {sizes}, most of {layout.size[0]} x {layout.size[1]} pixels\n'
          f'{len(draft.classes)} class(es): {some(draft.classes, 20)}\n'
          f'{draft.length} epoch(s) of {draft.steps} step(s), learning rate {draft.rate:g}\n'
          f'wrote {out}; next: mmattn check-data {out}')


def chosen(layout: Layout, args: Namespace) -> tuple[str, ...]:
    """The classes: those that the user names, or else those of the data.

    Raises:
        UsageError: the data has none of a name, or label maps, whose classes nobody named.
    """
    if layout.form == 'maps' and not args.classes:
        raise UsageError(f'label maps have no names: give them with --classes; the values in {args.data} are '
                         f'{some(layout.values, 300)}')
    if layout.form != 'maps' and args.classes:
        check_classes(layout, args.classes)
    if layout.form == 'coco':       # mmdet counts in the order of the file
        return tuple(name for name in layout.classes if name in (args.classes or layout.classes))
    return tuple(args.classes or layout.classes)
