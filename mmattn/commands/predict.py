"""Predict for images, folders and videos.

Writes predictions.json and pictures: of a detector, its boxes and masks as COCO has them; of a segmentor, label maps
and the areas of the classes; of a classifier, the surest classes. A video gives a video. What cannot be read is named,
skipped and counted.
"""
import sys
from argparse import ArgumentParser, Namespace

from tqdm import tqdm

from mmattn.commands.options import add_config, add_score, add_trust
from mmattn.datasets.skipping import describe_skipped
from mmattn.errors import ArgumentError, UsageError
from mmattn.inference import Outcome, predict
from mmattn.inference.media import Source


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('inputs', nargs='+', metavar='INPUT',
                        help='image, video, folder with such in it or below it, or a quoted pattern with *')
    add_config(parser)
    add_trust(parser)
    parser.add_argument('checkpoint', help="checkpoint file, ours or the authors'; 'random' for an untrained model")
    parser.add_argument('--out-dir', metavar='DIR', help='default work_dirs/predict/<name of the config>')
    add_score(parser)
    parser.add_argument('--batch-size', type=int, metavar='N',
                        help='most images that the model sees at once, those of one size that follow each other; '
                             'default as in the tests of the config')
    parser.add_argument('--device', help="'cpu', 'cuda', 'cuda:1', …; default the best there is")
    parser.add_argument('--no-pictures', action='store_true', help='write numbers and label maps alone')
    parser.add_argument('--attention', action='store_true',
                        help='also draw what the model attends to, beside each prediction')


def run(args: Namespace) -> None:
    try:
        outcome = predict(args.inputs, args.config, args.checkpoint, out_dir=args.out_dir, score=args.score,
                          batch_size=args.batch_size, device=args.device, options=args.cfg_options,
                          trust_checkpoint=args.trust_checkpoint, pictures=not args.no_pictures,
                          attention=args.attention, skip=report, progress=True)
    except ArgumentError as error:
        raise UsageError(error) from error
    print(describe(outcome))


def report(source: Source, why: str) -> None:
    """Name a file that cannot be read, above the bar."""
    tqdm.write(f'skipped {source.path}: {why}', file=sys.stderr)


def describe(outcome: Outcome) -> str:
    """What there is now, in one line, and in another what there is not."""
    lines = [f'{outcome.images} image(s) predicted: {outcome.folder}/predictions.json',
             describe_skipped([path for path, _ in outcome.skipped])]
    return '\n'.join(filter(None, lines))
