"""Options that several commands share, and what follows from them."""
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmengine.config import Config, DictAction

from mmattn.config import LIBRARIES, check_scope, read_config
from mmattn.openmmlab import choose_checkpoint_reading

CFG_OPTIONS_HELP = ('settings to override, key=value pairs separated by spaces; nested keys with dots, lists as '
                    'key="[a,b]", for example train_dataloader.batch_size=4')


def add_config(parser: ArgumentParser) -> None:
    """A config file and what to change of it."""
    parser.add_argument('config', help='config: a path, or the name of one that comes with the package')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help=CFG_OPTIONS_HELP)


def add_trust(parser: ArgumentParser) -> None:
    """The option to run code that a checkpoint carries; see `choose_checkpoint_reading`."""
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='read checkpoints although they hold more than tensors and plain values, and run the code '
                             'that they carry')


def add_score(parser: ArgumentParser) -> None:
    """From which score on a detection is drawn."""
    parser.add_argument('--score', '--score-thr', dest='score', type=float, default=0.3, metavar='SCORE',
                        help='lowest score of a drawn detection; default %(default)s')


def add_runner(parser: ArgumentParser) -> None:
    """The options that mmdet's and mmseg's own scripts share."""
    add_config(parser)
    add_trust(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go; default work_dirs/<name of the config>')
    parser.add_argument('--deterministic', action='store_true',
                        help='the same numbers in every run on a GPU too, or an error where PyTorch cannot')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='how several processes were started')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by older launchers')


def changed_config(args: Namespace) -> Config:
    """Read the config that the options name, and apply --cfg-options."""
    return read_config(args.config, args.cfg_options)


def check_library(cfg: Config, what: str) -> None:
    """Raise UsageError where a config is of another library than ours. One without a default scope may name the library
    in every type, as in 'mmdet.RetinaNet'."""
    if cfg.get('default_scope') is not None:
        check_scope(cfg, what, LIBRARIES)


def runner_config(args: Namespace, what: str) -> Config:
    """Read the config that the options name, apply them, choose the work directory.

    Raises:
        UsageError: it is of another library, and cannot be `what`.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    choose_checkpoint_reading(args.trust_checkpoint)
    cfg = changed_config(args)
    check_library(cfg, what)
    cfg.launcher = args.launcher
    if args.deterministic:
        cfg.randomness = {**cfg.get('randomness', {}), 'deterministic': True}
    if cfg.get('randomness', {}).get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')     # which cuBLAS asks for
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg
