"""Models and runners of configs, with their weights."""
import atexit
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS, RUNNERS, DefaultScope
from mmengine.runner import Runner, load_checkpoint, set_random_seed
from torch import nn

from mmattn.checkpoint.files import check_file, check_pretrained
from mmattn.checkpoint.loading import take_classifiers
from mmattn.config import LIBRARIES, modules_of, named
from mmattn.engine.levels import check_levels
from mmattn.errors import ArgumentError, UsageError

RANDOM = 'random'       # stands for a checkpoint: the weights that training starts from
PACKAGES = 'mmengine', 'mmcv', *LIBRARIES, 'mmattn'
REGISTRY = 'mmengine.registry'
BUILDERS = REGISTRY, 'mmengine.optim.optimizer.builder'     # what they call is of a config
CALL = re.compile('(keyword|positional) argument')      # of an error of a call that does not fit


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn what a config does wrong into a UsageError: a type that is not registered, an argument that a class does not
    have or refuses. Errors of other origin pass as they are, with their traceback."""
    try:
        yield
    except (TypeError, KeyError, ImportError, ArgumentError) as error:
        modules = modules_of(error.__cause__ or error)
        built = any(name.startswith(BUILDERS) for name in modules)
        text = str(error.args[0] if error.args else error)
        if isinstance(error, TypeError):        # raised by a call that does not fit, not in what was called
            built &= modules[-1].partition('.')[0] in PACKAGES and bool(CALL.search(text))
        elif isinstance(error, KeyError):
            built &= modules[-1].startswith(REGISTRY)
        if not built:
            raise
        raise UsageError(text) from error


def check_weights(cfg: Config, checkpoint: str) -> None:
    """Check the file of a checkpoint, or for 'random' those that training would start from.

    Raises:
        UsageError: it is missing or no checkpoint.
    """
    if checkpoint == RANDOM:
        check_pretrained(cfg.model)
    else:
        check_file(checkpoint)


def build_model(cfg: Config) -> Any:
    """Build the model of a config alone.

    Raises:
        UsageError: a class refused its arguments or is not registered; a neck or a head reads other maps than a
            backbone of ours gives.
    """
    settings = cfg.model
    if cfg.get('data_preprocessor'):        # beside the model, as mmpretrain has it
        settings = {'data_preprocessor': cfg.data_preprocessor, **settings}
    with config_errors(), DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = MODELS.build(settings)
    return _ready(model)


def _ready(model: Any) -> Any:
    """The model, checked, and with what lets it take the authors' files."""
    check_levels(model)
    take_classifiers(model)
    return model


def join_processes(cfg: Config) -> None:
    """Let the processes that a launcher started find each other, over gloo where there is no GPU.

    MMEngine's launcher takes a CUDA device in any case, but leaves a process group alone that stands already; its
    data-parallel wrapper takes one unless the config says otherwise.
    """
    if cfg.launcher == 'none':
        return
    if cfg.launcher != 'pytorch' or torch.cuda.is_available():
        if not torch.distributed.is_initialized():
            init_dist(cfg.launcher, **(cfg.get('env_cfg') or {}).get('dist_cfg', {}))
        return
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
        atexit.register(_leave)
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
                   find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = {**wrapper, **cfg.get('model_wrapper_cfg', {})}
    if named(cfg.get('strategy', {})) == 'FSDPStrategy':
        cfg.strategy.model_wrapper.device_id = 'cpu'
        for settings in cfg.strategy.state_dict_cfg.values():
            if 'offload_to_cpu' in settings:        # would be saved from memory that FSDP has freed
                settings.offload_to_cpu = False


def _leave() -> None:
    """End gloo's threads, which would abort a program that ends in an error before them."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def build_runner(cfg: Config) -> Runner:
    """Build MMEngine's runner, the model with it.

    Raises:
        UsageError: as `build_model`.
    """
    join_processes(cfg)
    with config_errors():
        if 'runner_type' in cfg:        # such runners build the model when they train
            return RUNNERS.build(cfg)
        runner = Runner.from_cfg(cfg)
    _ready(runner.model.module if is_model_wrapper(runner.model) else runner.model)
    return runner


def evaluate(runner: Runner, checkpoint: str | None) -> dict[str, float]:
    """The figures of a test with the weights of a checkpoint, see `load_weights`; None for those that the model has.

    Raises:
        UsageError: it is of another model; what a config does wrong.
    """
    runner._load_from, runner._resume = checkpoint, False
    # The runner loads it when hooks such as EMAHook are ready for it; strictly, unlike by itself.
    runner.load_checkpoint = partial(runner.load_checkpoint, strict=True)
    with config_errors(), of_this_model(checkpoint):
        return runner.test()


@contextmanager
def of_this_model(checkpoint: str | None) -> Iterator[None]:
    """Turn what PyTorch says of a checkpoint that lacks parameters, or has others, into a UsageError."""
    try:
        yield
    except RuntimeError as error:
        reason = ' '.join(str(error).split()).partition('The model and loaded state dict do not match exactly ')[2]
        if not reason:
            raise
        raise UsageError(f'{checkpoint} is not of this model: {reason[:300]}{"…" * (len(reason) > 300)}') from error


def load_weights(model: nn.Module, checkpoint: str) -> dict[str, Any]:
    """Load a checkpoint, ours or the authors', that has every parameter of the model and no other.

    Returns:
        what the file holds.

    Raises:
        UsageError: it is of another model.
    """
    with of_this_model(checkpoint):
        return load_checkpoint(model, checkpoint, map_location='cpu', strict=True)


def load_model(cfg: Config, checkpoint: str, device: str | None = None) -> Any:
    """The model of a config alone, ready to predict. Its `dataset_meta` is what the checkpoint says about the data that
    it was trained on, such as 'classes' and 'palette'.

    Args:
        cfg: the whole config; its random seed, or else 0, is set before the model is built.
        checkpoint: a file, ours or the authors'; 'random' for the weights that training starts from.
        device: where the model goes; None for the best there is.

    Raises:
        UsageError: a file is missing or of another model, or the model cannot be built.
    """
    check_weights(cfg, checkpoint)
    set_random_seed((cfg.get('randomness') or {}).get('seed') or 0)
    model = build_model(cfg)
    model.dataset_meta = {}
    if checkpoint == RANDOM:
        with config_errors():
            model.init_weights()
    else:
        model.dataset_meta = _dataset_meta(load_weights(model, checkpoint).get('meta') or {})
    return model.eval().to(device or get_device())


def _dataset_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says about its data, named as MMEngine does; older files have 'CLASSES' and 'PALETTE'."""
    said = meta.get('dataset_meta') or {key: meta[key] for key in ('CLASSES', 'PALETTE') if key in meta}
    return {key.lower(): value for key, value in said.items()}
