"""Write the tables of published models: python tools/maintenance/model_table.py

Counts parameters and multiply-adds of every config in configs/published.yml, and writes configs/FAMILY/metafile.yml,
the table in configs/FAMILY/README.md, and model-index.yml.
"""
from pathlib import Path

import yaml

from mmattn.config import read_config
from mmattn.errors import UsageError
from mmattn.measuring import published_flops
from mmattn.measuring.flops import SHAPES, Count, count_model

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
START, END = '<!-- table by tools/maintenance/model_table.py -->', '<!-- end of table -->'
COLUMNS = ('config', 'parameters, M', 'published', 'multiply-adds, G', 'without attention', 'by their count',
           'published', 'published result', 'recipe')


def read_published():
    """Collections of configs/published.yml by name."""
    return yaml.safe_load((CONFIGS / 'published.yml').read_text())


def count(collection, name):
    """What a published config costs, at the image size that its FLOPs are published for.

    Returns:
        dict[str, int]: 'Parameters', 'FLOPs', 'FLOPs of attention', 'FLOPs of sampling', and 'FLOPs by their count'
            where we know how that was done.
    """
    cfg = read_config(CONFIGS / collection['folder'] / f'{name}.py')
    shape = collection['segmentation_shape'] if cfg.default_scope == 'mmseg' else SHAPES['mmdet']
    counts = count_model(cfg, shape)
    total = sum(counts.values(), Count())
    costs = {'Parameters': total.parameters, 'FLOPs': total.total, 'FLOPs of attention': total.attention,
             'FLOPs of sampling': total.sampling}
    if 'flops' in collection['configs'][name]:
        costs['FLOPs by their count'] = (published_flops.dat(cfg.model, counts, shape) if collection['folder'] == 'dat'
                                         else published_flops.crossformer(cfg.model, counts, shape))
    return costs


def count_all(collections):
    """Costs by config name."""
    costs = {}
    names = [(collection, name) for collection in collections.values() for name in collection['configs']]
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
    header = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
    folders = sorted({collection['folder'] for collection in collections.values()})
    for folder in folders:
        own = {name: collection for name, collection in collections.items() if collection['folder'] == folder}
        files[CONFIGS / folder / 'metafile.yml'] = _dump(metafile(own, costs))
        readme = CONFIGS / folder / 'README.md'
        before, found, rest = readme.read_text().partition(START)
        if not found or END not in rest:
            raise UsageError(f'{readme} needs the lines {START} and {END}, between which the table goes')
        rows = ''.join(row(name, published, costs[name], collection.get('recipes')) for collection in own.values()
                       for name, published in collection['configs'].items())
        files[readme] = f'{before}{START}\n{header}{rows}{END}{rest.partition(END)[2]}'
    files[ROOT / 'model-index.yml'] = _dump({'Import': [f'configs/{folder}/metafile.yml' for folder in folders]})
    return files


def recipe(name, published, recipes):
    """The authors' file that a config follows, as a link that names its commit, or 'assumed'."""
    if 'recipe' not in published:
        return 'assumed'
    folder = recipes['detection' if name.endswith('_coco') else 'segmentation']
    commit, file = folder.split('/blob/')[1].split('/')[0], published['recipe']
    return f'[{commit}: {file}]({folder}{file})'


def row(name, published, costs, recipes):
    """A line of the table."""
    names = dict(bbox='box AP', segm='mask AP', miou='mIoU', miou_ms='multi-scale')
    results = [f"{text} {published[key]}" + (f" ({published[f'{key}_rerun']})" if f'{key}_rerun' in published else '')
               for key, text in names.items() if key in published]
    total, theirs = costs['FLOPs'], costs.get('FLOPs by their count')
    figures = [f"{costs['Parameters'] / 1e6:.2f}", published.get('params', ''), f'{total / 1e9:.1f}',
               f"{(total - costs['FLOPs of attention']) / 1e9:.1f}", f'{theirs / 1e9:.1f}' if theirs else '',
               published.get('flops', ''), ', '.join(results), recipe(name, published, recipes)]
    return f'| [{name}]({name}.py) | ' + ' | '.join(map(str, figures)) + ' |\n'


def metafile(collections, costs):
    """What OpenMMLab's tools read: papers, models, published results."""
    models = []
    for title, collection in collections.items():
        for name, published in collection['configs'].items():
            coco = name.endswith('_coco')
            multiscale = 'ms' if collection['folder'] == 'crossformer' else 'ms+flip'
            metrics = {'Object Detection': {'box AP': published.get('bbox')},
                       'Instance Segmentation': {'mask AP': published.get('segm')},
                       'Semantic Segmentation': {'mIoU': published.get('miou'),
                                                 f'mIoU({multiscale})': published.get('miou_ms')}}
            models.append({
                'Name': name,
                'In Collection': title,
                'Config': f"configs/{collection['folder']}/{name}.py",
                'Metadata': {'Training Data': 'COCO' if coco else 'ADE20K', **costs[name]},
                'Results': [{'Task': task, 'Dataset': 'COCO' if coco else 'ADE20K',
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
