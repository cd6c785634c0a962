"""The commands: mmattn COMMAND, python -m mmattn COMMAND, python tools/COMMAND.py"""
import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from mmattn import __version__
from mmattn.config import advice
from mmattn.errors import UsageError

COMMANDS = {
    'init-config': 'write a short config for data of your own',
    'train': 'train a detector, a segmentor or a classifier',
    'test': 'test one: COCO AP, mIoU or accuracy',
    'predict': 'predict for images, folders and videos',
    'export': 'write a detector or a segmentor as an ONNX file',
    'analyze': 'what a model takes for what: figures of each class, a confusion matrix',
    'plot-log': 'draw the curves of trainings, resumed ones as one',
    'visualize': 'draw what a model attends to',
    'check-data': 'check the data sets of a config before training',
    'convert-checkpoint': "turn an authors' checkpoint into ours",
    'replay': 'run the call of a model again whose numbers were not finite',
    'get-flops': 'count parameters and multiply-adds',
    'benchmark': 'measure time and peak memory of a layer, a backbone or a whole model',
    'check-gpu': 'check and time every implementation on a GPU',
    'analyze-points': 'how many sampled points lie on objects',
    'ablate': 'compare attentions in one small network',
}


def main(command: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    An error that the user can put right becomes one line on stderr and exit status 2; any other keeps its traceback.

    Args:
        command: a key of `COMMANDS`; None takes the first argument.
        arguments: of the command; None takes those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    program = f'tools/{command.replace("-", "_")}.py' if command else 'mmattn'
    if command is None:
        command, arguments = _chosen(arguments)
        program = f'mmattn {command}'
    try:
        module = _load(command)
        parser = argparse.ArgumentParser(prog=program, description=module.__doc__,
                                         formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(parser)
        sys.exit(module.run(parser.parse_args(arguments)) or 0)
    except UsageError as error:
        sys.stderr.write(f'error: {" ".join(str(error).split())}\n')
        sys.exit(2)


def _load(command: str) -> ModuleType:
    """The module of a command.

    Raises:
        UsageError: it needs a package that is not installed.
    """
    try:
        return import_module(f'mmattn.commands.{command.replace("-", "_")}')
    except ImportError as error:
        if (error.name or '').startswith('mmattn'):
            raise
        raise UsageError(f'{command}: {advice(error)}') from error


def _chosen(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that the arguments begin with, and the rest of them."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog='mmattn', description='Deformable, cross-scale and bi-level routing attention with OpenMMLab.',
        epilog='commands:\n' + '\n'.join(f'  {name:{width}}  {what}' for name, what in COMMANDS.items())
        + '\n\nmmattn COMMAND --help says more of one.', formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', action='version', version=f'mmattn {__version__}')
    parser.add_argument('command', metavar='COMMAND', type=lambda name: name.replace('_', '-'), choices=COMMANDS)
    return parser.parse_args(arguments[:1]).command, arguments[1:]


if __name__ == '__main__':
    main()
