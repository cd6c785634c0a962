"""Run the call of a model again whose numbers were not finite.

Prints the first module that makes such a number. FILE is what `mmattn.NonFiniteHook` wrote.
"""
from argparse import ArgumentParser, Namespace

from mmengine.device import get_device

from mmattn.checkpoint.files import check_file
from mmattn.checkpoint.reading import read_checkpoint
from mmattn.commands.options import add_config, changed_config, check_library
from mmattn.engine.building import build_model
from mmattn.engine.non_finite import find_culprit
from mmattn.errors import UsageError


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('file', help='non_finite_step_N.pth in the work directory of a training or test')


def run(args: Namespace) -> None:
    cfg = changed_config(args)
    check_library(cfg, 'replayed')
    check_file(args.file)
    content = read_checkpoint(args.file, get_device(), samples=True)
    if 'call' not in content:
        raise UsageError(f'{args.file} holds no call of a model; mmattn.NonFiniteHook writes such files')
    model = build_model(cfg).to(get_device())
    model.load_state_dict(content['state_dict'])
    print(find_culprit(model, content['call']))
