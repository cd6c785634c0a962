"""Compare attentions in one small network on the generated scenes.

Each name is a config in configs/ablation, whose attention is put into configs/demo/upernet_pyramid_scenes.py. All train
for the same number of iterations, from the same seed; the table and the plot have accuracy, time, memory and
parameters. What is finished is not done again, and an interrupted training goes on where it stopped. Times are taken at
the end, in turn.

--config sets segmentors of your own beside them, trained and tested as their configs say. One that derives from
mmattn::demo/upernet_pyramid_scenes.py has the same data and schedule, so that only the network differs.
"""
import json
import os
import statistics
import subprocess
import sys
import zlib
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmattn.config import CONFIGS, is_segmentation, read_config
from mmattn.engine.building import build_model, load_model
from mmattn.errors import UsageError
from mmattn.measuring.timing import seconds

BASE = CONFIGS / 'demo/upernet_pyramid_scenes.py'
COLUMNS = {'attention': '{}', 'mIoU': '{:.1f}', 'training, s per step': '{:.3f}', 'testing, s per image': '{:.3f}',
           'peak memory, MiB': '{:.0f}', 'parameters, M': '{:.2f}'}
ROUNDS = 15     # of the timing, after one that is not timed
IN_PROCESS = dict(num_workers=0, persistent_workers=False)
DATA, RECIPE = ('train_dataloader', 'test_dataloader'), ('train_cfg', 'optim_wrapper', 'param_scheduler')


class Row(NamedTuple):
    """A network to compare: the file of its config, the folder of its training, and how it differs from others."""
    name: str
    config: Path
    folder: Path
    note: str = ''


def names() -> list[str]:
    """The attentions that there are configs of."""
    return sorted(path.stem for path in (CONFIGS / 'ablation').glob('*.py'))


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('attention', nargs='*', help=f'one or several of {", ".join(names())}; or all')
    parser.add_argument('--config', nargs='+', default=[], metavar='CONFIG', help='segmentors of your own')
    parser.add_argument('--iterations', type=int, default=600, help='training steps of 8 images; default 600')
    parser.add_argument('--data', default='data/scenes', help='folder of the scenes; default data/scenes')
    parser.add_argument('--work-dir', default='work_dirs/ablation', help='default work_dirs/ablation')


def chosen(args: Namespace) -> list[str]:
    """The attentions to compare."""
    return names() if args.attention == ['all'] else args.attention


def network(args: Namespace) -> Config:
    """The demo config, with the data and the length of the training that the options say."""
    cfg = read_config(BASE)
    cfg.train_cfg.update(max_iters=args.iterations, val_interval=args.iterations)
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = min(warmup.end, args.iterations // 6)
    decay.end = args.iterations
    cfg.param_scheduler = [warmup, decay] if warmup.end else [decay]
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = args.data
    return cfg


def write_config(name: str, args: Namespace, folder: Path) -> Path:
    """The network with the attention of a config in configs/ablation, as one file."""
    cfg = network(args)
    cfg.model.backbone.attention = read_config(CONFIGS / 'ablation' / f'{name}.py').model.backbone.attention
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}.py'
    cfg.dump(path)
    return path


def listed(args: Namespace) -> list[Row]:
    """The networks to compare, their configs written."""
    work = Path(args.work_dir)
    return [Row(name, write_config(name, args, work / 'configs'), work / f'{name}_{args.iterations}')
            for name in chosen(args)] + [own(Path(path), work, network(args)) for path in args.config]


def own(path: Path, work: Path, base: Config) -> Row:
    """The network of a user's config beside `base`; a changed config has another folder."""
    cfg = read_config(path)
    folder = work / f'{path.stem}_{zlib.crc32(str(cfg.to_dict()).encode()):08x}'
    other = [what for what, keys in (('data', DATA), ('recipe', RECIPE))
             if any(cfg.get(key) != base.get(key) for key in keys)]
    return Row(path.stem, path, folder, f'{path.stem}: {" and ".join(other)} of its own' if other else '')


def call(command: str, *args: str | Path) -> float:
    """Run another command in a process of its own; its peak memory in MiB.

    Raises:
        UsageError: it failed.
    """
    process = subprocess.Popen([sys.executable, '-m', 'mmattn', command, *map(str, args)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UsageError(f'mmattn {command} {args[0]} failed with status {os.waitstatus_to_exitcode(status)}; '
                         'the same command goes on where it stopped')
    return usage.ru_maxrss / 1024


def measure(config: Path, folder: Path) -> dict[str, float]:
    """Train and test a config; its row of the table, without times."""
    memory = call('train', config, '--work-dir', folder, '--resume')
    call('test', config, (folder / 'last_checkpoint').read_text(), '--work-dir', folder / 'test')
    newest = max((folder / 'test').rglob('*.json'), key=lambda path: path.stat().st_mtime)
    figures = json.loads(newest.read_text())
    return {'mIoU': figures['mIoU'], 'peak memory, MiB': memory,
            'parameters, M': sum(p.numel() for p in build_model(read_config(config)).parameters()) / 1e6}


def time_in_turn(configs: Sequence[Path], folders: Sequence[Path]) -> list[dict[str, float]]:
    """Time trained networks; they go round step by step, so that a busy spell of the machine does not fall on one.

    Returns:
        for each, the medians of the seconds that a training step and a test image take.
    """
    cfgs = [read_config(path) for path in configs]
    models = [load_model(cfg, (folder / 'last_checkpoint').read_text()) for cfg, folder in zip(cfgs, folders)]
    wrappers = [build_optim_wrapper(model, cfg.optim_wrapper) for model, cfg in zip(models, cfgs)]
    batches, images = ([first_batch(cfg, split) for cfg in cfgs] for split in ('train', 'test'))
    steps = {'training, s per step': lambda i: models[i].train().train_step(batches[i], wrappers[i]),
             'testing, s per image': torch.no_grad()(lambda i: models[i].eval().test_step(images[i]))}
    times: list[dict[str, list[float]]] = [{name: [] for name in steps} for _ in models]
    for _ in range(1 + ROUNDS):
        for i, row in enumerate(times):
            device = next(models[i].parameters()).device
            for name, step in steps.items():
                row[name].append(seconds(partial(step, i), device))
    return [{name: statistics.median(measured[1:]) for name, measured in row.items()} for row in times]


def first_batch(cfg: Config, split: str) -> Any:
    """The first batch of a split, the same for every network that has the same data."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return next(iter(Runner.build_dataloader({**cfg[f'{split}_dataloader'], **IN_PROCESS}, seed=0)))


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy over training time, peak memory and parameters."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4), sharey=True, layout='constrained')
    for axis, x in zip(axes, ('training, s per step', 'peak memory, MiB', 'parameters, M')):
        for i, row in enumerate(rows):
            axis.scatter(row[x], row['mIoU'], s=60, color=f'C{i % 10}', marker='os'[i // 10 % 2],
                         label=row['attention'])
        axis.set_xlabel(x)
        axis.margins(0.15)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('mIoU on held-out scenes')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right center')
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, the most accurate first."""
    cells = [[form.format(row[name]) for name, form in COLUMNS.items()] for row in rows]
    lines = [list(COLUMNS), ['---'] * len(COLUMNS), *cells]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def check(args: Namespace) -> None:
    """Raise UsageError where something is wrong that can be seen before anything is trained."""
    if not args.attention and not args.config:
        raise UsageError('nothing to compare; name an attention, all, or a --config')
    unknown = [name for name in chosen(args) if name not in names()]
    if unknown:
        raise UsageError(f'{", ".join(unknown)}: no such config in configs/ablation; choose from {", ".join(names())}')
    if args.attention and not Path(args.data).is_dir():
        raise UsageError(f'no scenes in {args.data}; draw them: python -m mmattn.datasets.scenes {args.data}')
    for path in args.config:
        if not is_segmentation(read_config(path)):
            raise UsageError(f'--config {path} is not of mmseg; mIoU compares segmentors')


def run(args: Namespace) -> None:
    check(args)
    work = Path(args.work_dir)
    networks = listed(args)
    rows: list[dict[str, Any]] = []
    for one in networks:
        result = one.folder / 'result.json'
        if not result.exists():
            row = measure(one.config, one.folder)
            result.write_text(json.dumps(row))
        rows.append({'attention': one.name, **json.loads(result.read_text())})
    for row, times in zip(rows, time_in_turn([one.config for one in networks], [one.folder for one in networks])):
        row.update(times)
    rows.sort(key=lambda row: -row['mIoU'])
    notes = [f'UperNet, {args.iterations} steps of 8 generated scenes: toy scale.'] * bool(args.attention)
    notes += [one.note for one in networks if one.note]
    text = '\n\n'.join([*notes, table(rows)]) + '\n'
    (work / 'table.md').write_text(text)
    draw(rows, work / 'plot.png')
    print(f'{text}\nwrote {work / "table.md"} and {work / "plot.png"}')
