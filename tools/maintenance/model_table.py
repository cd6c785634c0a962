"""Write the tables of published models: python tools/maintenance/model_table.py

Counts parameters and multiply-adds of every config in configs/published.yml, and writes configs/FAMILY/metafile.yml,
the tables in configs/FAMILY/README.md and configs/imagenet/README.md, and model-index.yml.
"""
from pathlib import Path

import yaml

from mmattn.config import read_config
from mmattn.measuring import published_flops
from mmattn.measuring.flops import SHAPES, Count, count_model
from mmattn.measuring.tables import markdown, with_table

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
COLUMNS = ('config', 'parameters, M', 'published', 'multiply-adds, G', 'without attention', 'by their count',
           'published', 'published result', 'recipe')
CLASSIFIERS = 'imagenet'        # their folder, of all families
OF_CLASSIFIERS = ('config', 'parameters, M', 'published', 'multiply-adds, G', 'published', 'published top-1, %',
                  'recipe')


def read_published():
    """Collections of configs/published.yml by name."""
    return yaml.safe_load((CONFIGS / 'published.yml').read_text())


def published_in(collection):
    """What is published of each config, by its name."""
    return {**collection['configs'], **collection['classifiers']}


def folder_of(collection, name):
    """The folder of a config."""
    return CLASSIFIERS if name in collection['classifiers'] else collection['folder']


def count(collection, name):
    """What a published config costs, at the image size that its FLOPs are published for.

    Returns:
        dict[str, int]: 'Parameters', 'FLOPs', 'FLOPs of attention', 'FLOPs of sampling', and 'FLOPs by their count'
            where we know how that was done, and it is not ours.
    """
    cfg = read_config(CONFIGS / folder_of(collection, name) / f'{name}.py')
    shape = collection['segmentation_shape'] if cfg.default_scope == 'mmseg' else SHAPES[cfg.default_scope]
    if name.endswith('px'):
        shape = [int(name[-5:-2])] * 2
    counts = count_model(cfg, shape)
    total = sum(counts.values(), Count())
    costs = {'Parameters': total.parameters, 'FLOPs': total.total, 'FLOPs of attention': total.attention,
             'FLOPs of sampling': total.sampling}
    if 'flops' in collection['configs'].get(name, {}):
        costs['FLOPs by their count'] = (published_flops.dat(cfg.model, counts, shape) if collection['folder'] == 'dat'
                                         else published_flops.crossformer(cfg.model, counts, shape))
    return costs


def count_all(collections):
    """Costs by config name."""
    costs = {}
    names = [(collection, name) for collection in collections.values() for name in published_in(collection)]
    for i, (collection, name) in enumerate(names, 1):
        costs[name] = count(collection, name)
        print(f'{i}/{len(names)} {name}: {costs[name]}', flush=True)
    return costs


def read_costs(collections):
    """Costs by config name as the metafiles have them."""
    return {model['Name']: {key: value for key, value in model['Metadata'].items() if key != 'Training Data'}
            for folder in {collection['folder'] for collection in collections.values()}
            for model in yaml.safe_load((CONFIGS / folder / 'metafile.yml').read_text())['Models']}


def render(collections, costs):
    """The content of every file to write.

    Returns:
        dict[Path, str]
    """
    files = {}
    folders = sorted({collection['folder'] for collection in collections.values()})
    for folder in folders:
        own = {name: collection for name, collection in collections.items() if collection['folder'] == folder}
        files[CONFIGS / folder / 'metafile.yml'] = _dump(metafile(own, costs))
        files |= readme(folder, COLUMNS, [
            row(name, published, costs[name], collection.get('recipes')) for collection in own.values()
            for name, published in collection['configs'].items()])
    files |= readme(CLASSIFIERS, OF_CLASSIFIERS, [
        row_of_classifier(name, published, costs[name], collection['recipes']) for collection in collections.values()
        for name, published in collection['classifiers'].items()])
    files[ROOT / 'model-index.yml'] = _dump({'Import': [f'configs/{folder}/metafile.yml' for folder in folders]})
    return files


def readme(folder, columns, rows):
    """The README of a folder by its path, with the table in it."""
    path = CONFIGS / folder / 'README.md'
    return {path: with_table(path.read_text(), path, 'tools/maintenance/model_table.py', markdown(columns, rows))}


def kind_of(name):
    """What a config is for, by its name."""
    return 'detection' if name.endswith('_coco') else 'segmentation' if '_ade20k' in name else 'classification'


def recipe(name, published, recipes):
    """The authors' file that a config follows, as a link that names its commit, or 'assumed'."""
    if 'recipe' not in published:
        return 'assumed'
    folder = recipes[kind_of(name)]
    commit, file = folder.split('/blob/')[1].split('/')[0], published['recipe']
    return f'[{commit}: {file}]({folder}{file})'


def row(name, published, costs, recipes):
    """Cells of a line of the table."""
    names = dict(bbox='box AP', segm='mask AP', miou='mIoU', miou_ms='multi-scale')
    results = [f"{text} {published[key]}" + (f" ({published[f'{key}_rerun']})" if f'{key}_rerun' in published else '')
               for key, text in names.items() if key in published]
    total, theirs = costs['FLOPs'], costs.get('FLOPs by their count')
    figures = [f"{costs['Parameters'] / 1e6:.2f}", published.get('params', ''), f'{total / 1e9:.1f}',
               f"{(total - costs['FLOPs of attention']) / 1e9:.1f}", f'{theirs / 1e9:.1f}' if theirs else '',
               published.get('flops', ''), ', '.join(results), recipe(name, published, recipes)]
    return [f'[{name}]({name}.py)', *figures]


def row_of_classifier(name, published, costs, recipes):
    """Cells of a line of the table of classifiers."""
    figures = [f"{costs['Parameters'] / 1e6:.2f}", published['params'], f"{costs['FLOPs'] / 1e9:.2f}",
               published['flops'], published['top1'], recipe(name, published, recipes)]
    return [f'[{name}]({name}.py)', *figures]


def metafile(collections, costs):
    """What OpenMMLab's tools read: papers, models, published results."""
    models = []
    for title, collection in collections.items():
        for name, published in published_in(collection).items():
            data = {'detection': 'COCO', 'segmentation': 'ADE20K'}.get(kind_of(name), 'ImageNet-1k')
            multiscale = 'ms' if collection['folder'] == 'crossformer' else 'ms+flip'
            metrics = {'Object Detection': {'box AP': published.get('bbox')},
                       'Instance Segmentation': {'mask AP': published.get('segm')},
                       'Semantic Segmentation': {'mIoU': published.get('miou'),
                                                 f'mIoU({multiscale})': published.get('miou_ms')},
                       'Image Classification': {'Top 1 Accuracy': published.get('top1')}}
            models.append({
                'Name': name,
                'In Collection': title,
                'Config': f'configs/{folder_of(collection, name)}/{name}.py',
                'Metadata': {'Training Data': data, **costs[name]},
                'Results': [{'Task': task, 'Dataset': data,
                             'Metrics': {metric: value for metric, value in values.items() if value is not None}}
                            for task, values in metrics.items() if any(v is not None for v in values.values())]})
    return {'Collections': [{'Name': title, 'Metadata': {'Architecture': [collection['architecture']]},
                             'Paper': {'Title': collection['title'], 'URL': collection['paper']},
                             'Code': {'URL': collection['code']}, 'README': f"configs/{collection['folder']}/README.md"}
                            for title, collection in collections.items()],
            'Models': models}


def _dump(content):
    return ('# Written by tools/maintenance/model_table.py. FLOPs are multiply-adds as we count them, results are '
            'published.\n'
            + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def main():
    collections = read_published()
    for path, text in render(collections, count_all(collections)).items():
        path.write_text(text)
        print(f'wrote {path.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
