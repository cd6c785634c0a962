"""What a training is set up with: its batch, schedule and precision, safeguards, and where it goes on from."""
import os
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, OPTIMIZERS
from mmengine.runner import CheckpointLoader

from mmattn.checkpoint.files import check_file
from mmattn.checkpoint.loading import compare_as_loaded
from mmattn.checkpoint.reading import state_dict_of
from mmattn.config import named, registered
from mmattn.engine.checkpointing import check_resumable, saved_checkpoints
from mmattn.errors import UsageError, some

NAMED = 20          # modules in a line
WARM_UPS = 'LinearLR', 'ConstantLR'


@dataclass
class Batch:
    """The effective batch of a training.

    Args:
        processes: that train together.
        images: per process and step.
        steps: whose gradients are accumulated.
    """
    processes: int
    images: int
    steps: int

    @property
    def total(self) -> int:
        """Images per update of the weights."""
        return self.processes * self.images * self.steps

    def __str__(self) -> str:
        return (f'effective batch: {self.processes} process(es) x {self.images} image(s) x {self.steps} '
                f'accumulation(s) = {self.total}')


def effective_batch(cfg: Config) -> Batch:
    """The batch of the training that a config describes."""
    variables = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
    processes = int(os.environ.get(variables[cfg.launcher], 1)) if cfg.launcher in variables else 1
    return Batch(processes, cfg.train_dataloader.batch_size, cfg.optim_wrapper.get('accumulative_counts', 1))


def describe_batch(cfg: Config) -> str:
    """One line: the effective batch beside the one that the recipe assumes."""
    batch, base = effective_batch(cfg), cfg.get('auto_scale_lr', {}).get('base_batch_size')
    if base is None:
        return f'{batch}; the recipe does not say which batch it assumes'
    if batch.total == base:
        return f'{batch}, as the recipe assumes'
    action = 'scaled' if cfg.auto_scale_lr.get('enable') else 'NOT scaled; --auto-scale-lr would scale it'
    return f'{batch}; the recipe assumes {base}, the learning rate is {action} by {batch.total / base:g}'


def describe_schedule(cfg: Config) -> str | None:
    """One line where a training is longer or shorter than the schedule of its learning rate; None where both end
    together, give or take one step."""
    train_cfg, schedulers = cfg.get('train_cfg') or {}, cfg.get('param_scheduler') or []
    unit = 'epoch' if train_cfg.get('max_epochs') else 'iteration'
    last = train_cfg.get('max_epochs') or train_cfg.get('max_iters')
    ends = [scheduler['end'] for scheduler in (schedulers if isinstance(schedulers, list) else [schedulers])
            if scheduler.get('end') and scheduler.get('by_epoch', True) == (unit == 'epoch')
            and named(scheduler) not in WARM_UPS]
    if not last or not ends or abs(max(ends) - last) <= 1:
        return None
    after = ', with the rate as it is then' if max(ends) < last else ''
    return (f'the schedule of the learning rate ends at {unit} {max(ends)}, the training at {last}{after}; adapt '
            'param_scheduler')


def check_optimizers(cfg: Config) -> None:
    """Raise UsageError unless every optimizer is registered; MMEngine would say that None cannot be called."""
    wrappers = [cfg.optim_wrapper, *(node for node in cfg.optim_wrapper.values() if isinstance(node, dict))]
    for wrapper in wrappers:
        kind = (wrapper.get('optimizer') or {}).get('type')
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
            near = get_close_matches(kind, OPTIMIZERS.module_dict, n=1)
            raise UsageError(f'optimizer.type={kind!r} is not registered' + f'; {near[0]} is' * bool(near))


def choose_precision(cfg: Config, wanted: str | None) -> str | None:
    """Mixed precision: that which is `wanted` ('bf16', 'fp16'), or the recipe's if there is a GPU.

    Returns:
        a line to print where the recipe's is not possible, or None.

    Raises:
        UsageError: the device has none of the wanted kind.
    """
    gpu = torch.cuda.is_available()
    if wanted == 'fp16' and not gpu:
        raise UsageError('--amp fp16 needs a GPU, and torch sees none; --amp bf16 runs on the CPU')
    if wanted == 'bf16' and gpu and not torch.cuda.is_bf16_supported():
        raise UsageError(f'--amp bf16: {torch.cuda.get_device_name()} has no bfloat16; use --amp fp16')
    if wanted and 'optimizer' not in cfg.optim_wrapper:
        raise UsageError(f'--amp {wanted}: the config has several optimizers; give each a type in optim_wrapper, '
                         'mmattn.BFloat16OptimWrapper or mmattn.AmpOptimWrapper')
    recipe = named(cfg.optim_wrapper).endswith('AmpOptimWrapper')
    if wanted or (recipe and not gpu):
        kinds = {'bf16': dict(type='mmattn.BFloat16OptimWrapper'), None: dict(type='OptimWrapper'),
                 'fp16': dict(type='mmattn.AmpOptimWrapper', dtype='float16', loss_scale='dynamic')}
        rest = {key: value for key, value in cfg.optim_wrapper.items() if key not in ('type', 'loss_scale', 'dtype')}
        cfg.optim_wrapper = {**kinds[wanted], **rest}
    return 'no GPU: float32 instead of the mixed precision of the recipe' if recipe and not gpu and not wanted else None


def add_safeguards(cfg: Config) -> None:
    """Let a training resume exactly and keep its files whole, see `mmattn.engine`.

    A hook that the config sets under the same name stays as it is, and None leaves it out.
    """
    hooks = cfg.setdefault('default_hooks', {})
    hooks.setdefault('checkpoint', dict(type='CheckpointHook'))
    if hooks.checkpoint and registered(HOOKS, hooks.checkpoint.type) is CheckpointHook:
        hooks.checkpoint.type = 'mmattn.CheckpointHook'
    for name, kind in dict(seed='SeedHook', losses='AverageLossesHook', non_finite='NonFiniteHook').items():
        if hooks.setdefault(name, dict(type=f'mmattn.{kind}')) is None:
            hooks.pop(name)     # MMEngine takes None for its own hooks alone
    if named(cfg.train_dataloader.sampler) != 'NumberedSampler':
        cfg.train_dataloader.sampler = dict(type='mmattn.NumberedSampler', sampler=cfg.train_dataloader.sampler)


@dataclass
class Resumption:
    """Where a training goes on from.

    Args:
        path: of the checkpoint; None where there is none, and the training starts at the beginning.
        content: of the file, tensors without their values.
        refused: why later files were passed over, a line each.
    """
    path: Path | None = None
    content: dict[str, Any] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def resume_from(cfg: Config, wanted: str | os.PathLike[str]) -> Resumption:
    """Let a config go on from the checkpoint that is wanted or, with 'auto', from the latest whole one in its work
    directory, with the seed that it was saved with.

    Raises:
        UsageError: the one that is wanted cannot be read, or cannot be resumed from.
    """
    refused: list[str] = []
    for path in saved_checkpoints(cfg.work_dir) if wanted == 'auto' else [Path(wanted)]:
        try:
            check_file(path)
            content = CheckpointLoader.load_checkpoint(str(path), map_location='meta')      # shapes, no memory
            check_resumable(content, path)
        except UsageError as error:
            if wanted != 'auto':
                raise UsageError(f'{error}{instead(cfg, path)}') from error
            refused.append(str(error))
            continue
        cfg.resume, cfg.load_from = True, str(path)
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': content['meta'].get('seed')}
        return Resumption(path, content, refused)
    return Resumption(refused=refused)


def taken_from(path: str, model: Any) -> str:
    """One line: how much of a model starts from a checkpoint, and what does not.

    Raises:
        UsageError: nothing does.
        CheckpointError: it is of another architecture.
    """
    content = CheckpointLoader.load_checkpoint(path, map_location='meta')
    found = compare_as_loaded(state_dict_of(content, path), model.module if is_model_wrapper(model) else model)
    if not found.taken:
        raise UsageError(f"load_from={path!r}: {found}. The file of a classifier is for the backbone: "
                         "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=…)")
    modules = dict.fromkeys(name.rpartition('.')[0] for name in (*found.other_shape, *found.missing))
    return f'load_from={path!r}: {found}' + f'; start anew: {some(modules, NAMED)}' * bool(modules)


def instead(cfg: Config, path: str | os.PathLike[str]) -> str:
    """Half a sentence that names the latest other checkpoint in the work directory."""
    others = [other for other in saved_checkpoints(cfg.work_dir) if other.resolve() != Path(path).resolve()]
    return f'; the latest other one is {others[0]}' if others else ''
