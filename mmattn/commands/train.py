"""Train a detector or a segmentor."""
import sys
from argparse import ArgumentParser, Namespace

from mmengine.config import Config
from mmengine.runner import Runner

from mmattn.checkpoint.files import check_file, check_pretrained
from mmattn.commands.options import add_runner, runner_config
from mmattn.datasets.checking import check_annotations, check_paths
from mmattn.datasets.loading import read_log
from mmattn.datasets.skipping import Skipped, describe_skipped, leave_out, skip_in_training
from mmattn.engine.building import build_runner, config_errors, join_processes
from mmattn.engine.checkpointing import check_same_model, saved_checkpoints
from mmattn.engine.levels import describe_unread
from mmattn.engine.training import (
    Resumption,
    add_safeguards,
    check_optimizers,
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
    cfg = runner_config(args, 'trained')
    say(choose_precision(cfg, args.amp))
    if args.auto_scale_lr:
        scale_learning_rate(cfg, args.config)
    saved = resumed(cfg, args.resume) if args.resume else Resumption()
    check_optimizers(cfg)
    add_safeguards(cfg)
    facts = [fact for fact in (describe_batch(cfg), describe_schedule(cfg)) if fact]
    say(*facts)
    if args.auto_scale_lr:      # MMEngine divides images x processes by the base and leaves accumulation out
        cfg.auto_scale_lr.base_batch_size /= effective_batch(cfg).steps
    join_processes(cfg)
    skipped = check_data(cfg)
    log = skip_in_training(cfg)
    runner = build_runner(cfg)
    facts += check_start(cfg, saved, runner)
    for fact in facts:
        runner.logger.info(fact)
    for line in skipped.lines:
        runner.logger.warning(line)
    try:
        with config_errors():
            runner.train()
    except KeyboardInterrupt:
        last = next(iter(saved_checkpoints(cfg.work_dir)), None)
        where = f'; the same command with --resume goes on from {last}' if last else ' before the first checkpoint'
        sys.stderr.write(f'stopped{where}\n')
        return 130      # as a shell says of a program that was interrupted
    finally:
        trained = describe_skipped(list(read_log(log)))
        for line in filter(None, (trained and f'train: {trained}; {log} says why', skipped.summary)):
            runner.logger.warning(line)
    return None


def scale_learning_rate(cfg: Config, name: str) -> None:
    """Let MMEngine scale the learning rate by the effective batch."""
    if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
        raise UsageError(f'--auto-scale-lr: {name} has no auto_scale_lr.base_batch_size')
    cfg.auto_scale_lr.enable = True


def resumed(cfg: Config, wanted: str) -> Resumption:
    """Where the training goes on from, with a line for what that is."""
    saved = resume_from(cfg, wanted)
    say(*(f'not resumed from: {reason}' for reason in saved.refused),
        f'resumes from {saved.path}' if saved.path else
        f'no checkpoint in {cfg.work_dir} to resume from: the training starts at the beginning')
    return saved


def check_data(cfg: Config) -> Skipped:
    """Check files and annotations before any work, and leave out of the validation what cannot be loaded."""
    check_paths(cfg, 'train', 'val')
    check_pretrained(cfg.model)
    if cfg.get('load_from'):
        check_file(cfg.load_from)
    with config_errors():
        check_annotations(cfg, 'train', 'val')
        return leave_out(cfg, 'val')


def check_start(cfg: Config, saved: Resumption, runner: Runner) -> list[str]:
    """Check that the weights that the training starts from are the model's; lines that say how many of them are, and
    what no gradient will reach."""
    if 'runner_type' in cfg:        # such runners build the model when they train
        return []
    facts = describe_unread(runner.model)
    if saved.path:
        try:
            check_same_model(saved.content, runner.model, saved.path)
        except CheckpointError as error:
            raise UsageError(f'{error}{instead(cfg, saved.path)}') from error
    elif cfg.get('load_from') and not cfg.get('resume'):
        facts.append(taken_from(cfg.load_from, runner.model))
    return facts


def say(*lines: str | None) -> None:
    for line in lines:
        if line:
            print(line, flush=True)
