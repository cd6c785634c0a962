"""How much of what deformable attention looks at lies on objects: python tools/analyze_points.py CONFIG [CHECKPOINT…]

For every layer of deformable attention, the share inside of the ground truth masks: of the image, which points of
uniform density would reach; of the uniform grid from which the points start; of the sampled points; and of the
attention that these receive. Figures are means over images, all of the same weight, without those that have no ground
truth; differences to the grid come with the standard error of their mean.

In detection the mask of an image is the union of its instances, of their boxes where they have no masks; in
segmentation it is every pixel of a class that is not --background. Points outside of the image are outside of the mask.
Points on crowds and on pixels that are ignored do not count, nor do these pixels.

Writes table.md and plot.png.
"""
import argparse
from pathlib import Path

import numpy as np

import common
import common_data
from check_data import IGNORED, SPLITS, quiet, spread
from common import RANDOM, UsageError, add_config, add_trust, changed_config, run
from mmattn.openmmlab import choose_checkpoint_reading

COLUMNS = ('weights', 'layer', 'mask area', 'uniform grid', 'points', 'attention', 'points − grid', 'attention − grid')
COLORS = ('#d1495b', '#00798c', '#edae49', '#5b5f97', '#66a182', '#8d6a9f')
GREY = '#8a8f98'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config(parser)
    add_trust(parser)
    parser.add_argument('checkpoint', nargs='*', default=[RANDOM],
                        help=f"checkpoint files to compare, ours or the authors'; '{RANDOM}', the default, stands for "
                        'the weights that training starts from')
    parser.add_argument('--split', choices=SPLITS, default='test',
                        help='default %(default)s; the images of all go through the pipeline of the test')
    parser.add_argument('--limit', type=int, default=0, metavar='N',
                        help='most images of a data set, spread over it; default all')
    parser.add_argument('--background', nargs='+', metavar='NAME',
                        help="segmentation: classes that are not objects; default 'background'")
    parser.add_argument('--out', metavar='DIR', help='default work_dirs/analyze_points/<name of the config>')
    return parser.parse_args()


def analyze(cfg, checkpoints=(RANDOM,), split='test', limit=0, background=None):
    """Measure the deformable attention layers of a model on the images of a split.

    Args:
        cfg (Config): the whole config.
        checkpoints (Sequence[str]): files, or 'random'.
        split (str): 'train', 'val' or 'test'; images go through the pipeline of the test.
        limit (int): most images of a data set; 0 for all.
        background (Sequence[str] | None): segmentation, classes that are not objects.

    Returns:
        dict[str, dict[str, ndarray]]: for each checkpoint and layer the `Shares` of every image that has ground truth,
        (images, 4).

    Raises:
        UsageError: data or a checkpoint is missing or does not fit, no deformable attention in the model, no ground
            truth.
    """
    from mmengine.registry import DefaultScope
    check(cfg, checkpoints, split)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        found = {}
        for name, checkpoint in names(checkpoints).items():
            with quiet():
                model = common.load_model(cfg, checkpoint)
            layers = deformable_layers(model)
            if not layers:
                raise UsageError(f'{type(model).__name__} of {cfg.filename} has no DeformableAttention, whose points '
                                 'could be counted')
            if not found:       # after the model, which is the faster to fail
                cases = list_cases(cfg, split, limit, background)
            found[name] = measure(model, layers, cases, name)
            if not found[name]:
                raise UsageError(f'none of {len(cases)} image(s) of {split} has an object in its ground truth')
        return found


def check(cfg, checkpoints, split):
    """What can be wrong before anything is built."""
    if cfg.get('default_scope') not in ('mmdet', 'mmseg'):
        raise UsageError(f'default_scope={cfg.get("default_scope")!r}: only mmdet and mmseg configs can be measured')
    if not cfg.get(f'{split}_dataloader'):
        raise UsageError(f'--split {split}: the config has no {split}_dataloader')
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        raise UsageError('the model cuts images into pieces; add --cfg-options model.test_cfg.mode=whole')
    common_data.check_data({f'{split}_dataloader': cfg[f'{split}_dataloader']}, split)      # evaluators are not needed
    for checkpoint in checkpoints:
        common.check_weights(cfg, checkpoint)


def names(checkpoints):
    """Short names of checkpoints that tell them apart."""
    checkpoints = list(dict.fromkeys(map(str, checkpoints)))
    short = [Path(checkpoint).name for checkpoint in checkpoints]
    return dict(zip(short if len(set(short)) == len(short) else checkpoints, checkpoints))


def deformable_layers(model):
    """Names of the layers of deformable attention."""
    from mmattn.layers import DeformableAttention
    return [name for name, module in model.named_modules() if isinstance(module, DeformableAttention)]


def list_cases(cfg, split, limit, background):
    """The images to measure: (data set, number of the image in it, labels that are background)."""
    datasets = [(dataset, background_of(cfg, dataset, background)) for dataset in build_datasets(cfg, split)]
    return [(dataset, int(i), labels) for dataset, labels in datasets for i in spread(range(len(dataset)), limit)]


def build_datasets(cfg, split):
    """Every innermost data set of a split, with the pipeline of the test, which neither crops nor flips.

    Ground truth is not the pipeline's to load, because it would be resized with the image.
    """
    from mmengine.registry import DATASETS
    source = cfg.get('test_dataloader') or cfg.get('val_dataloader') or cfg.train_dataloader
    pipeline = next(node for _, node in common_data.datasets_below(source, ''))['pipeline']
    pipeline = [step for step in pipeline if not step['type'].endswith('Annotations')]
    with quiet():
        return [DATASETS.build({**node, 'pipeline': pipeline, 'test_mode': True})
                for _, node in common_data.datasets_below(cfg[f'{split}_dataloader'], '')]


def background_of(cfg, dataset, wanted):
    """Labels of the classes that are not objects; none in detection."""
    classes = [name.strip() for name in dataset.metainfo['classes']]       # ADE20K has a 'bed '
    if cfg.default_scope == 'mmdet':
        if wanted:
            raise UsageError('--background is for segmentation; in detection the masks of all instances count')
        return []
    unknown = [name for name in wanted or ['background'] if name not in classes]
    if unknown:
        fault = f'{", ".join(unknown)}: no such class' if wanted else 'is needed, no class is called background'
        raise UsageError(f'--background {fault}; the classes are {", ".join(classes)}')
    return [classes.index(name) for name in wanted or ['background']]


def ground_truth(dataset, i, background):
    """Where objects are in an image, and what is ignored; (H, W) bool, in pixels of the image."""
    info = dataset.get_data_info(i)
    return of_instances(info) if 'instances' in info else of_label_map(info, background)


def of_instances(info):
    """Union of the instances of an image, and the crowds beside them; (H, W) bool."""
    mask, ignored = np.zeros((2, info['height'], info['width']), bool)
    for instance in info['instances']:
        (ignored if instance['ignore_flag'] else mask)[instance_mask(instance, mask.shape)] = True
    return mask, ignored & ~mask


def instance_mask(instance, size):
    """Mask of an instance, (H, W) bool, from polygons, a run-length code, or else its box."""
    from pycocotools import mask as mask_utils
    coded = instance.get('mask')
    if isinstance(coded, list):     # of polygons; two corners are none
        coded = [polygon for polygon in coded if len(polygon) >= 6]
        coded = coded and mask_utils.merge(mask_utils.frPyObjects(coded, *size))
    elif coded and isinstance(coded['counts'], list):
        coded = mask_utils.frPyObjects(coded, *size)
    if coded:
        return mask_utils.decode(coded).astype(bool)
    left, top, right, bottom = (max(round(side), 0) for side in instance['bbox'])
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def of_label_map(info, background):
    """Pixels of the objects in a label map, and those that are ignored; (H, W) bool."""
    from mmengine.registry import TRANSFORMS
    if not info.get('seg_map_path'):
        raise UsageError(f'{info["img_path"]} has no label map')
    labels = TRANSFORMS.build(dict(type='LoadAnnotations')).transform(info)['gt_seg_map']
    ignored = labels == IGNORED
    return ~(np.isin(labels, background) | ignored), ignored


def measure(model, layers, cases, name):
    """The `Shares` of every deformable attention layer on every image.

    Args:
        model (nn.Module): a detector or a segmentor.
        layers (list[str]): names of the layers.
        cases (list[tuple[Dataset, int, list[int]]]): from `list_cases`.
        name (str): for the progress bar.

    Returns:
        dict[str, ndarray]: for each layer, (images with ground truth, 4).
    """
    import re

    import torch
    from mmengine.dataset import pseudo_collate
    from tqdm import tqdm

    from mmattn.visualization.recording import record_attention
    from mmattn.visualization.shares import shares_inside
    chosen = '|'.join(f'^{re.escape(layer)}$' for layer in layers)
    if all(layer.startswith(('backbone.', 'neck.')) for layer in layers):       # the heads would take most of the time
        model.predict = lambda inputs, *args, **kwargs: model.extract_feat(inputs)
    found = {}
    for dataset, i, background in tqdm(cases, desc=name, unit='image'):
        try:
            mask, ignored = ground_truth(dataset, i, background)
            if not mask.any():
                continue
            data = dataset[i]
        except FileNotFoundError as error:
            raise UsageError(f'data not found: {error.filename}') from error
        with torch.no_grad(), record_attention(model, layers=chosen) as records:
            model.test_step(pseudo_collate([data]))
        for record in records:
            try:
                shares = shares_inside(record, torch.from_numpy(mask), torch.from_numpy(ignored))
            except ValueError as error:
                raise UsageError(f'{data["data_samples"].img_path}: {error}') from error
            found.setdefault(record.layer, []).append(shares)
    return {layer: np.array(shares) for layer, shares in found.items()}


def table(found):
    """A table in Markdown, in percent: means over images, and differences with their standard error."""
    lines = [f'| {" | ".join(COLUMNS)} |', '|---|---|' + '---:|' * (len(COLUMNS) - 2)]
    for name, layers in found.items():
        for layer, shares in layers.items():
            cells = [cell(*mean(share)[:1]) for share in shares.T]
            cells += [cell(*mean(shares[:, column] - shares[:, 1]), sign='+') for column in (2, 3)]
            lines.append(f'| {name} | {layer} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def mean(shares):
    """Mean over the images where something counts, and its standard error, in percent; nan where there is none."""
    shares = 100 * shares[~np.isnan(shares)]
    return (shares.mean() if len(shares) else np.nan,
            shares.std(ddof=1) / len(shares) ** 0.5 if len(shares) > 1 else np.nan)


def cell(value, error=np.nan, sign=''):
    """A figure, with its error if there is one."""
    if np.isnan(value):
        return '–'
    value = round(value, 1) + 0.0       # no -0.0
    return f'{value:{sign}.1f}' + ('' if np.isnan(error) else f' ± {error:.1f}')


def plot(found, title, path):
    """Draw points and attention by layer, a line for each checkpoint, beside the uniform grid.

    The bars are the standard errors of the differences to the grid.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    first = next(iter(found.values()))
    ticks = [layer.removeprefix('backbone.').removesuffix('.attn') for layer in first]
    at = np.arange(len(ticks))
    area, grid = ([mean(shares[:, i])[0] for shares in first.values()] for i in (0, 1))
    figure = Figure(figsize=(max(8, 2.4 + 0.9 * len(ticks)), 4.6), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    for axes, column, heading in zip(figure.subplots(1, 2, sharey=True), (2, 3),
                                     ('sampled points', 'attention that the points receive')):
        axes.axhline(area[0], color=GREY, lw=1, ls=':', label='mask area')
        axes.plot(at, grid, color=GREY, lw=1.5, marker='s', ms=4, label='uniform grid')
        for i, (name, layers) in enumerate(found.items()):
            heights = [mean(shares[:, column])[0] for shares in layers.values()]
            errors = [mean(shares[:, column] - shares[:, 1])[1] for shares in layers.values()]
            aside = 0.05 * (i - (len(found) - 1) / 2)       # bars beside each other
            axes.errorbar(at + aside, heights, errors, color=COLORS[i % len(COLORS)], lw=2, marker='o', ms=6, capsize=3,
                          elinewidth=1, label=name)
        axes.set_title(heading, fontsize=11)
        axes.set_xticks(at, ticks, **(dict(rotation=30, ha='right') if len(ticks) > 1 else {}))
        axes.set_xlim(-0.4, len(ticks) - 0.6)
        axes.grid(axis='y', color='#e6e8eb')
        axes.margins(y=0.1)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    figure.axes[0].set_ylabel('inside of ground truth masks, %')
    figure.axes[0].set_ylim(bottom=0)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(len(labels), 4), frameon=False)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path)


def main():
    args = parse_args()
    choose_checkpoint_reading(args.trust_checkpoint)
    if args.limit < 0:
        raise UsageError(f'--limit {args.limit}: a number of images, or 0 for all')
    cfg = changed_config(args)
    name = Path(args.config).stem
    out = Path(args.out or Path('work_dirs/analyze_points') / name)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f'--out {out} cannot be written: {error}') from error
    found = analyze(cfg, args.checkpoint, args.split, args.limit, args.background)
    images = len(next(iter(next(iter(found.values())).values())))
    title = f'{name}, {args.split}: {images} image{"s" * (images != 1)} with ground truth'
    text = f'{title}; inside of its masks, %\n\n{table(found)}\n'
    (out / 'table.md').write_text(text)
    plot(found, title, out / 'plot.png')
    print(f'{text}\n{out}/table.md, {out}/plot.png')


if __name__ == '__main__':
    run(main)
