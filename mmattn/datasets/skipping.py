"""Samples that cannot be loaded are left out: of a training while it runs, of a validation or test set before."""
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmattn.config import datasets_below, evaluators, named
from mmattn.datasets.loading import find_unloadable, loading_steps
from mmattn.datasets.processes import on_the_first
from mmattn.errors import UsageError, some

SKIPPED = 'skipped.txt'     # in the work directory of a training
SHOWN, WARNED = 10, 20      # images in the line at the end, and with a warning of their own


@dataclass
class Skipped:
    """The images that were left out of a split.

    Args:
        lines: one for each of the first ones, which says why.
        summary: a line at the end; '' without any.
    """
    lines: list[str] = field(default_factory=list)
    summary: str = ''


def skip_in_training(cfg: Config) -> str:
    """Let training skip the samples that cannot be loaded, by `mmattn.LoadOrSkip` around the first steps of every
    training pipeline, and of those that hooks switch to.

    Returns:
        the file that the images are written to.
    """
    heads = cfg.model.get('decode_head') or []
    heads = heads if isinstance(heads, (list, tuple)) else [heads]
    classes = [max(2, head['num_classes']) for head in heads if 'num_classes' in head]      # of one: labels 0 and 1
    log = str(Path(cfg.work_dir) / SKIPPED)
    settings = dict(classes=min(classes, default=None), log=log)
    nodes = [('pipeline', node) for _, node in datasets_below(cfg.train_dataloader, '')]
    for key, node in nodes + [('switch_pipeline', hook) for hook in cfg.get('custom_hooks') or ()]:
        if node.get(key):
            ignored = dict(ignore_index=node['ignore_index']) if 'ignore_index' in node else {}
            node[key] = _wrap_loading(node[key], settings | ignored)
    if not cfg.get('resume'):
        Path(log).unlink(missing_ok=True)
    return log


def _wrap_loading(pipeline: list[Any], settings: dict[str, Any]) -> list[Any]:
    if named(pipeline[0]) == 'LoadOrSkip':      # the config that a training left in its work directory
        return [{**pipeline[0], **settings}, *pipeline[1:]]
    loading = loading_steps(pipeline)
    steps = list(takewhile(lambda step: step in loading, pipeline))
    return [dict(type='mmattn.LoadOrSkip', transforms=steps, **settings), *pipeline[len(steps):]] if steps else pipeline


def leave_out(cfg: Config, split: str) -> Skipped:
    """Leave the samples that cannot be loaded out of a validation or test set. With several processes, the first one
    looks for all.

    Raises:
        UsageError: none can be loaded.
    """
    nodes = dict(datasets_below(cfg.get(f'{split}_dataloader') or {}, f'{split}_dataloader'))
    found: list[tuple[str, str]] = []
    for key, (chosen, faults) in on_the_first(lambda: _unloadable(cfg, nodes)).items():
        nodes[key]['indices'] = [i for i in chosen if i not in faults]
        found += faults.values()
    missed = any(evaluator.get('ann_file') for evaluator in evaluators(cfg, split))
    end = describe_skipped([path for path, _ in found])
    return Skipped([f'{split}: skipped {path}: {why}' for path, why in found[:WARNED]], end and (
        f'{split}: {end}; {"their objects count as missed" if missed else "the figures are of the others"}'))


def _unloadable(cfg: Config, nodes: dict[str, Any]) -> dict[str, tuple[list[int], dict[int, tuple[str, str]]]]:
    """By data set with such samples: those that it has, and of which the path and the fault."""
    found = {}
    for key, node in nodes.items():
        steps = loading_steps(node.get('pipeline') or ())
        if not steps:
            continue
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            dataset = DATASETS.build({key: value for key, value in node.items() if key != 'indices'} | {'pipeline': []})
            dataset.full_init()
            chosen = _chosen(node.get('indices'), range(len(dataset)))
            faults = find_unloadable(dataset, steps, chosen)
        if faults and len(faults) == len(chosen):
            raise UsageError(f'{key}: none of {len(chosen)} images can be loaded, the first: '
                             f'{": ".join(next(iter(faults.values())))}')
        if faults:
            found[key] = chosen, faults
    return found


def _chosen(indices: int | Sequence[int] | None, positions: range) -> list[int]:
    """What MMEngine's data sets take as `indices`, as a list."""
    if isinstance(indices, int):
        return list(positions[:indices] if indices >= 0 else positions[indices:])
    return list(positions if indices is None else indices)


def describe_skipped(paths: Sequence[str]) -> str:
    """One line that counts and names the images; '' without any."""
    names = map(os.path.basename, paths)
    return f'skipped {len(paths)} image(s) that cannot be loaded: {some(names, SHOWN)}' if paths else ''
