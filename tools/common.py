"""What train.py and test.py share: the options, reading a config, and checks that fail in one line before any work."""
import os
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from mmattn.errors import UsageError
from mmattn.openmmlab import DISTRIBUTIONS, choose_checkpoint_reading, require

RANDOM = 'random'       # stands for a checkpoint: the weights that training starts from
CFG_OPTIONS_HELP = ('settings to override, key=value pairs separated by spaces; nested keys with dots, lists as '
                    'key="[a,b]", for example train_dataloader.batch_size=4')


def run(main):
    """Call `main()`; an error with a message for the user becomes one line on stderr and exit status 2."""
    try:
        main()
    except UsageError as error:
        sys.stderr.write(f'error: {" ".join(str(error).split())}\n')
        sys.exit(2)


def add_config(parser):
    """A config file and what to change of it."""
    from mmengine.config import DictAction
    parser.add_argument('config', help='config file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help=CFG_OPTIONS_HELP)


def add_trust(parser):
    """The option to run code that a checkpoint carries; see `choose_checkpoint_reading`."""
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='read checkpoints although they hold more than tensors and plain values, and run the code '
                             'that they carry')


def add_common_options(parser):
    """The options that mmdet's and mmseg's own scripts share."""
    add_config(parser)
    add_trust(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go; default work_dirs/<name of the config>')
    parser.add_argument('--deterministic', action='store_true',
                        help='the same numbers in every run on a GPU too, or an error where PyTorch cannot')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='how several processes were started')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by older launchers')


def read_config(path):
    """Read a config file.

    Raises:
        UsageError: it is missing, does not parse, or needs a package that is not installed.
    """
    from mmengine.config import Config
    if not Path(path).is_file():
        raise UsageError(f'config not found: {Path(path).absolute()}')
    try:
        return Config.fromfile(path)
    except ImportError as error:
        missing = [module for module in DISTRIBUTIONS if module in str(error) and find_spec(module) is None]
        try:
            require(*missing)
        except ImportError as advice:
            error = advice
        raise UsageError(f'{path}: {error}') from error
    except (FileNotFoundError, SyntaxError, KeyError, TypeError) as error:
        raise UsageError(f'{path} cannot be read: {error}') from error


def changed_config(args):
    """Read the config that the options name, and apply --cfg-options."""
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options)
    return cfg


def load_config(args):
    """Read the config that the options name, apply them, choose the work directory."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    choose_checkpoint_reading(args.trust_checkpoint)
    cfg = changed_config(args)
    cfg.launcher = args.launcher
    if args.deterministic:
        cfg.randomness = {**cfg.get('randomness', {}), 'deterministic': True}
    if cfg.get('randomness', {}).get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')     # which cuBLAS asks for
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def check_checkpoint(path):
    """Check that a local file is one that torch.save wrote, whole.

    Raises:
        UsageError: it is missing, empty, cut short, or something else.
    """
    if '://' in str(path):
        return
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f'checkpoint not found: {path.absolute()}')
    with path.open('rb') as file:
        start = file.read(16)
    if start.startswith(b'PK') and not zipfile.is_zipfile(path):
        raise UsageError(f'checkpoint {path.absolute()} is cut short: {path.stat().st_size} bytes without an end')
    if not start.startswith((b'PK', b'\x80')):      # zip, or the pickle of older torch versions
        raise UsageError(f'checkpoint {path.absolute()} is not a PyTorch file: it starts with {start!r}')


def check_pretrained(node):
    """Check every local file that an `init_cfg=dict(type='Pretrained', …)` below a config node names."""
    if isinstance(node, dict):
        if node.get('type') == 'Pretrained' and node.get('checkpoint'):
            check_checkpoint(node['checkpoint'])
        for value in node.values():
            check_pretrained(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            check_pretrained(value)


def check_weights(cfg, checkpoint):
    """Check the file of a checkpoint, or for 'random' those that training would start from."""
    if checkpoint == RANDOM:
        check_pretrained(cfg.model)
    else:
        check_checkpoint(checkpoint)


def build_model(cfg):
    """Build the model of a config alone.

    Raises:
        UsageError: a class refused its arguments or is not registered.
    """
    from mmengine.registry import MODELS, DefaultScope
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            return MODELS.build(cfg.model)
    except (ValueError, KeyError, ImportError) as error:
        raise UsageError(error.args[0] if error.args else error) from error


def join_processes(cfg):
    """Let the processes that torchrun started work together over gloo where there is no GPU.

    MMEngine's launcher takes a CUDA device in any case, but leaves a process group alone that stands already; its
    data-parallel wrapper takes one unless the config says otherwise.
    """
    import torch
    if cfg.launcher != 'pytorch' or torch.cuda.is_available():
        return
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
                   find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = {**wrapper, **cfg.get('model_wrapper_cfg', {})}
    if cfg.get('strategy', {}).get('type') == 'FSDPStrategy':
        cfg.strategy.model_wrapper.device_id = 'cpu'
        for settings in cfg.strategy.state_dict_cfg.values():
            if 'offload_to_cpu' in settings:        # would be saved from memory that FSDP has freed
                settings.offload_to_cpu = False


def add_safeguards(cfg):
    """Let a training resume exactly and keep its files whole, see `mmattn.engine`.

    A hook that the config sets under the same name stays as it is, and None leaves it out.
    """
    hooks = cfg.setdefault('default_hooks', {})
    hooks.setdefault('checkpoint', dict(type='CheckpointHook'))
    if hooks.checkpoint and hooks.checkpoint.type == 'CheckpointHook':
        hooks.checkpoint.type = 'mmattn.CheckpointHook'
    for name, kind in dict(seed='SeedHook', losses='AverageLossesHook', non_finite='NonFiniteHook').items():
        if hooks.setdefault(name, dict(type=f'mmattn.{kind}')) is None:
            hooks.pop(name)     # MMEngine takes None for its own hooks alone
    if cfg.train_dataloader.sampler.type != 'mmattn.NumberedSampler':
        cfg.train_dataloader.sampler = dict(type='mmattn.NumberedSampler', sampler=cfg.train_dataloader.sampler)


def build_runner(cfg):
    """Build MMEngine's runner, the model with it.

    Raises:
        UsageError: a class refused its arguments or is not registered.
    """
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner
    join_processes(cfg)
    try:
        return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except (ValueError, KeyError, ImportError) as error:
        raise UsageError(error.args[0] if error.args else error) from error


def load_weights(target, checkpoint):
    """Load a checkpoint, ours or the authors', that has every parameter of the model and no other.

    Args:
        target (Runner | nn.Module): a runner, whose hooks see the checkpoint, or a model.
        checkpoint (str): a file.

    Raises:
        UsageError: it is of another model.
    """
    from mmengine.runner import load_checkpoint
    from torch.nn import Module
    try:
        if isinstance(target, Module):
            load_checkpoint(target, checkpoint, map_location='cpu', strict=True)
        else:
            target.load_checkpoint(checkpoint, strict=True)
    except RuntimeError as error:
        reason = ' '.join(str(error).split()).partition('The model and loaded state dict do not match exactly ')[2]
        if not reason:
            raise
        raise UsageError(f'{checkpoint} is not of this model: {reason[:300]}{"…" * (len(reason) > 300)}') from error


def load_model(cfg, checkpoint):
    """The model of a config alone, ready to predict.

    Args:
        cfg (Config): the whole config; its random seed, or else 0, is set before the model is built.
        checkpoint (str): a file, ours or the authors'; 'random' for the weights that training starts from.

    Raises:
        UsageError: a file is missing or of another model, or the model cannot be built.
    """
    from mmengine.device import get_device
    from mmengine.runner import set_random_seed
    check_weights(cfg, checkpoint)
    set_random_seed((cfg.get('randomness') or {}).get('seed') or 0)
    model = build_model(cfg)
    if checkpoint == RANDOM:
        model.init_weights()
    else:
        load_weights(model, checkpoint)
    return model.eval().to(get_device())
