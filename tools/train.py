"""Train a detector or a segmentor: python tools/train.py CONFIG"""
import argparse
import os

from common import (
    UsageError,
    add_common_options,
    build_runner,
    check_checkpoint,
    check_data,
    check_masks,
    check_pretrained,
    describe_skipped,
    leave_out,
    load_config,
    run,
    skip_in_training,
)


def parse_args():
    parser = argparse.ArgumentParser(description='Train a detector or a segmentor.')
    add_common_options(parser)
    parser.add_argument('--amp', action='store_true', help='mixed precision (needs a GPU)')
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
    """Mixed precision if it is `wanted`, or if the recipe has it and there is a GPU.

    Raises:
        UsageError: it is wanted, and there is no GPU.
    """
    import torch
    if wanted and not torch.cuda.is_available():
        raise UsageError('--amp needs a GPU, and torch sees none')
    if wanted:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    elif cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and not torch.cuda.is_available():
        print('no GPU: float32 instead of the mixed precision of the recipe', flush=True)
        cfg.optim_wrapper = {key: value for key, value in cfg.optim_wrapper.items()
                             if key not in ('loss_scale', 'dtype')} | {'type': 'OptimWrapper'}


def main():
    from mmattn.datasets.loading import read_log
    args = parse_args()
    cfg = load_config(args)
    choose_precision(cfg, args.amp)
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise UsageError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
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
