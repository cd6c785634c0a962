"""What train.py, test.py and others ask of data sets before any work: files that exist, masks that can be evaluated,
images that can be loaded."""
import json
import os
from itertools import takewhile
from pathlib import Path

from common import UsageError

SKIPPED = 'skipped.txt'     # in the work directory of a training
SHOWN, WARNED = 10, 20      # images in the line at the end, and with a warning of their own


def check_data(cfg, *splits):
    """Check that the annotation files and image folders of the given splits exist.

    Args:
        cfg (Config): the whole config.
        *splits (str): 'train', 'val', 'test'; a split that the config lacks is skipped.

    Raises:
        UsageError: naming the first path that is missing and the setting it came from.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for key, dataset in datasets_below(loader, f'{split}_dataloader') if loader else ():
            root = dataset.get('data_root') or ''
            wanted = {'ann_file': dataset.get('ann_file')}
            wanted.update({f'data_prefix.{k}': v for k, v in (dataset.get('data_prefix') or {}).items()})
            for name, value in wanted.items():
                _check_exists(f'{key}.{name}', os.path.join(root, value) if value else None,
                              f'{key}.data_root={root!r}')
        for evaluator in evaluators(cfg, split):
            _check_exists(f'{split}_evaluator.ann_file', evaluator.get('ann_file'), '')


def datasets_below(node, key):
    """Every innermost dataset below a dataloader, with its key in the config."""
    for name in ('dataset', 'datasets'):
        inner = node.get(name)
        if isinstance(inner, dict):
            yield from datasets_below(inner, f'{key}.{name}')
        elif inner:
            for i, one in enumerate(inner):
                yield from datasets_below(one, f'{key}.{name}.{i}')
    if not node.get('dataset') and not node.get('datasets'):
        yield key, node


def check_masks(cfg, split):
    """Check that COCO's code can evaluate every mask that a split asks it to: it would stop after the last image.

    Raises:
        UsageError: naming the first annotations that it cannot.
    """
    for evaluator in evaluators(cfg, split):
        file, metrics = evaluator.get('ann_file'), evaluator.get('metric') or ()
        if not file or '://' in file or 'segm' not in ([metrics] if isinstance(metrics, str) else metrics):
            continue
        annotations = json.loads(Path(file).read_bytes()).get('annotations', ())
        wrong = [annotation.get('id') for annotation in annotations if not evaluates(annotation.get('segmentation'))]
        if wrong:
            ids = ', '.join(map(str, wrong[:SHOWN])) + ', …' * (len(wrong) > SHOWN)
            raise UsageError(f'{file}: {len(wrong)} annotation(s) have no mask that can be evaluated, by id: {ids}; a '
                             'mask is a run-length code or polygons of at least three corners')


def evaluates(mask):
    """Whether pycocotools takes a mask: a run-length code, or polygons, the first of more than two corners."""
    return isinstance(mask, dict) or bool(mask and len(mask[0]) > 4)


def evaluators(cfg, split):
    """The configs of the metrics of a split."""
    found = cfg.get(f'{split}_evaluator') or []
    return found if isinstance(found, (list, tuple)) else [found]


def skip_in_training(cfg):
    """Let training skip the samples that cannot be loaded, by `mmattn.LoadOrSkip` around the first steps of every
    training pipeline, and of those that hooks switch to.

    Returns:
        str: the file that the images are written to.
    """
    heads = cfg.model.get('decode_head') or []
    heads = heads if isinstance(heads, (list, tuple)) else [heads]
    classes = [max(2, head['num_classes']) for head in heads if 'num_classes' in head]      # of one: labels 0 and 1
    settings = dict(classes=min(classes, default=None), log=str(Path(cfg.work_dir) / SKIPPED))
    nodes = [('pipeline', node) for _, node in datasets_below(cfg.train_dataloader, '')]
    for key, node in nodes + [('switch_pipeline', hook) for hook in cfg.get('custom_hooks') or ()]:
        if node.get(key):
            node[key] = _wrap_loading(node[key], settings)
    if not cfg.get('resume'):
        Path(settings['log']).unlink(missing_ok=True)
    return settings['log']


def _wrap_loading(pipeline, settings):
    from mmattn.datasets.loading import loading_steps
    if pipeline[0]['type'] == 'mmattn.LoadOrSkip':      # the config that a training left in its work directory
        return [{**pipeline[0], **settings}, *pipeline[1:]]
    loading = loading_steps(pipeline)
    steps = list(takewhile(lambda step: step in loading, pipeline))
    return [dict(type='mmattn.LoadOrSkip', transforms=steps, **settings), *pipeline[len(steps):]] if steps else pipeline


def leave_out(cfg, split):
    """Leave the samples that cannot be loaded out of a validation or test set.

    Returns:
        tuple[list[str], str]: a line for each that says why, and a line at the end; '' without any.

    Raises:
        UsageError: none can be loaded.
    """
    from mmengine.registry import DATASETS, DefaultScope

    from mmattn.datasets.loading import find_unloadable, loading_steps
    found = []
    for key, node in datasets_below(cfg.get(f'{split}_dataloader') or {}, f'{split}_dataloader'):
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
            node['indices'] = [i for i in chosen if i not in faults]
            found += faults.values()
    missed = any(evaluator.get('ann_file') for evaluator in evaluators(cfg, split))
    end = describe_skipped([path for path, _ in found])
    return [f'{split}: skipped {path}: {why}' for path, why in found[:WARNED]], end and (
        f'{split}: {end}; {"their objects count as missed" if missed else "the figures are of the others"}')


def _chosen(indices, positions):
    """What MMEngine's data sets take as `indices`, as a list."""
    if isinstance(indices, int):
        return list(positions[:indices] if indices >= 0 else positions[indices:])
    return list(positions if indices is None else indices)


def describe_skipped(paths):
    """One line that counts and names the images; '' without any."""
    names = ', '.join(map(os.path.basename, paths[:SHOWN])) + ', …' * (len(paths) > SHOWN)
    return f'skipped {len(paths)} image(s) that cannot be loaded: {names}' if paths else ''


def _check_exists(key, path, setting):
    if path and '://' not in path and not os.path.exists(path):
        advice = f'; put the data there, link it, or change {setting} with --cfg-options' if setting else ''
        raise UsageError(f'data not found: {Path(path).absolute()} ({key}){advice}')
