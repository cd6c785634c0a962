"""Train a detector or a segmentor: python tools/train.py CONFIG"""
import argparse
import os
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader

from common import (
    UsageError,
    add_common_options,
    add_safeguards,
    build_runner,
    check_checkpoint,
    check_pretrained,
    load_config,
    run,
)
from common_data import check_data, check_masks, describe_skipped, leave_out, skip_in_training
from mmattn.engine.checkpointing import check_resumable, check_same_model, saved_checkpoints
from mmattn.errors import CheckpointError


def parse_args():
    parser = argparse.ArgumentParser(description='Train a detector or a segmentor.')
    add_common_options(parser)
    parser.add_argument('--amp', nargs='?', const='bf16', choices=['bf16', 'fp16'],
                        help='mixed precision: bfloat16, the default, or float16 with dynamic loss scaling, which '
                             'needs a GPU')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint; without a name, from the latest one in the work directory')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate by effective batch / batch that the recipe assumes')
    return parser.parse_args()


def effective_batch(cfg):
    """Processes, images per process, and accumulated steps of the training that a config describes."""
    variable = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE').get(cfg.launcher)
    processes = int(os.environ.get(variable, 1)) if variable else 1
    return processes, cfg.train_dataloader.batch_size, cfg.optim_wrapper.get('accumulative_counts', 1)


def describe_batch(cfg):
    """One line: the effective batch beside the one that the recipe assumes."""
    processes, images, steps = effective_batch(cfg)
    batch, base = processes * images * steps, cfg.get('auto_scale_lr', {}).get('base_batch_size')
    line = f'effective batch: {processes} process(es) x {images} image(s) x {steps} accumulation(s) = {batch}'
    if base is None:
        return f'{line}; the recipe does not say which batch it assumes'
    if batch == base:
        return f'{line}, as the recipe assumes'
    action = 'scaled' if cfg.auto_scale_lr.get('enable') else 'NOT scaled; --auto-scale-lr would scale it'
    return f'{line}; the recipe assumes {base}, the learning rate is {action} by {batch / base:g}'


def choose_precision(cfg, wanted):
    """Mixed precision: that which is `wanted` ('bf16', 'fp16'), or the recipe's if there is a GPU.

    Raises:
        UsageError: the device has none of the wanted kind.
    """
    gpu = torch.cuda.is_available()
    if wanted == 'fp16' and not gpu:
        raise UsageError('--amp fp16 needs a GPU, and torch sees none; --amp bf16 runs on the CPU')
    if wanted == 'bf16' and gpu and not torch.cuda.is_bf16_supported():
        raise UsageError(f'--amp bf16: {torch.cuda.get_device_name()} has no bfloat16; use --amp fp16')
    recipe = cfg.optim_wrapper.get('type', '').endswith('AmpOptimWrapper')
    if wanted or (recipe and not gpu):
        kinds = {'bf16': dict(type='mmattn.BFloat16OptimWrapper'), None: dict(type='OptimWrapper'),
                 'fp16': dict(type='mmattn.AmpOptimWrapper', dtype='float16', loss_scale='dynamic')}
        rest = {key: value for key, value in cfg.optim_wrapper.items() if key not in ('type', 'loss_scale', 'dtype')}
        cfg.optim_wrapper = {**kinds[wanted], **rest}
    if recipe and not gpu and not wanted:
        print('no GPU: float32 instead of the mixed precision of the recipe', flush=True)


def resume_from(cfg, wanted):
    """Let a config go on from the checkpoint that is wanted or, with 'auto', from the latest whole one in its work
    directory, with the seed that it was saved with.

    Returns:
        dict | None: its content, tensors without their values; None where there is none, and the training starts at the
            beginning.

    Raises:
        CheckpointError: the one that is wanted cannot be read, or cannot be resumed from.
    """
    for path in saved_checkpoints(cfg.work_dir) if wanted == 'auto' else [wanted]:
        try:
            check_checkpoint(path)
            content = CheckpointLoader.load_checkpoint(str(path), map_location='meta')      # shapes, no memory
            check_resumable(content, path)
        except (CheckpointError, UsageError) as error:
            if wanted != 'auto':
                raise UsageError(f'{error}{instead(cfg, path)}') from error
            print(f'not resumed from: {error}', flush=True)
            continue
        print(f'resumes from {path}', flush=True)
        cfg.resume, cfg.load_from = True, str(path)
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': content['meta'].get('seed')}
        return content
    print(f'no checkpoint in {cfg.work_dir} to resume from: the training starts at the beginning', flush=True)
    return None


def instead(cfg, path):
    """Half a sentence that names the latest other checkpoint in the work directory."""
    others = [other for other in saved_checkpoints(cfg.work_dir) if other.resolve() != Path(path).resolve()]
    return f'; the latest other one is {others[0]}' if others else ''


def main():
    from mmattn.datasets.loading import read_log
    args = parse_args()
    cfg = load_config(args)
    choose_precision(cfg, args.amp)
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise UsageError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    saved = resume_from(cfg, args.resume) if args.resume else None
    add_safeguards(cfg)
    check_data(cfg, 'train', 'val')
    check_masks(cfg, 'val')
    check_pretrained(cfg.model)
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from)
    batch = describe_batch(cfg)
    print(batch, flush=True)
    if args.auto_scale_lr:      # MMEngine divides images x processes by the base and leaves accumulation out
        cfg.auto_scale_lr.base_batch_size /= effective_batch(cfg)[2]
    warnings, skipped = leave_out(cfg, 'val')
    log = skip_in_training(cfg)
    runner = build_runner(cfg)
    if saved and 'runner_type' not in cfg:      # others build the model when they train
        try:
            check_same_model(saved, runner.model, cfg.load_from)
        except CheckpointError as error:
            raise UsageError(f'{error}{instead(cfg, cfg.load_from)}') from error
    runner.logger.info(batch)
    for line in warnings:
        runner.logger.warning(line)
    try:
        runner.train()
    finally:
        trained = describe_skipped(list(read_log(log)))
        for line in filter(None, (trained and f'train: {trained}; {log} says why', skipped)):
            runner.logger.warning(line)


if __name__ == '__main__':
    run(main)
