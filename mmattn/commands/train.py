"""Train a detector or a segmentor."""
import sys
from argparse import ArgumentParser, Namespace

from mmattn.checkpoint.files import check_file, check_pretrained
from mmattn.commands.options import add_runner, runner_config
from mmattn.datasets.checking import check_annotations, check_paths
from mmattn.datasets.loading import read_log
from mmattn.datasets.skipping import describe_skipped, leave_out, skip_in_training
from mmattn.engine.building import build_runner, config_errors, join_processes
from mmattn.engine.checkpointing import check_same_model, saved_checkpoints
from mmattn.engine.training import (
    add_safeguards,
    choose_precision,
    describe_batch,
    describe_schedule,
    effective_batch,
    instead,
    resume_from,
    taken_from,
)
from mmattn.errors import CheckpointError, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    add_runner(parser)
    parser.add_argument('--amp', nargs='?', const='bf16', choices=['bf16', 'fp16'],
                        help='mixed precision: bfloat16, the default, or float16 with dynamic loss scaling, which '
                             'needs a GPU')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint; without a name, from the latest one in the work directory')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate by effective batch / batch that the recipe assumes')


def run(args: Namespace) -> int | None:
    cfg = runner_config(args)
    say(choose_precision(cfg, args.amp))
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise UsageError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    saved = resume_from(cfg, args.resume) if args.resume else None
    if saved:
        say(*(f'not resumed from: {reason}' for reason in saved.refused),
            f'resumes from {saved.path}' if saved.path else
            f'no checkpoint in {cfg.work_dir} to resume from: the training starts at the beginning')
    add_safeguards(cfg)
    check_paths(cfg, 'train', 'val')
    check_pretrained(cfg.model)
    if cfg.get('load_from'):
        check_file(cfg.load_from)
    facts = [fact for fact in (describe_batch(cfg), describe_schedule(cfg)) if fact]
    say(*facts)
    if args.auto_scale_lr:      # MMEngine divides images x processes by the base and leaves accumulation out
        cfg.auto_scale_lr.base_batch_size /= effective_batch(cfg).steps
    join_processes(cfg)
    with config_errors():
        check_annotations(cfg, 'train', 'val')
        skipped = leave_out(cfg, 'val')
    log = skip_in_training(cfg)
    runner = build_runner(cfg)
    if saved and saved.path and 'runner_type' not in cfg:       # others build the model when they train
        try:
            check_same_model(saved.content, runner.model, saved.path)
        except CheckpointError as error:
            raise UsageError(f'{error}{instead(cfg, saved.path)}') from error
    if cfg.get('load_from') and not cfg.get('resume') and 'runner_type' not in cfg:
        facts.append(taken_from(cfg.load_from, runner.model))
    for fact in facts:
        runner.logger.info(fact)
    for line in skipped.lines:
        runner.logger.warning(line)
    try:
        with config_errors():
            runner.train()
    except KeyboardInterrupt:
        saved_last = next(iter(saved_checkpoints(cfg.work_dir)), None)
        sys.stderr.write('stopped' + (f'; the same command with --resume goes on from {saved_last}' if saved_last else
                                      ' before the first checkpoint') + '\n')
        return 130      # as a shell says of a program that was interrupted
    finally:
        trained = describe_skipped(list(read_log(log)))
        for line in filter(None, (trained and f'train: {trained}; {log} says why', skipped.summary)):
            runner.logger.warning(line)
    return None


def say(*lines: str | None) -> None:
    for line in lines:
        if line:
            print(line, flush=True)
