"""Compare attentions in one small network on the generated scenes, or models of your own.

Each name is a config in configs/ablation, whose attention is put into configs/demo/upernet_pyramid_scenes.py. All train
for the same number of iterations, from the same seeds; the table and the plot have accuracy, time, memory and
parameters. What is finished is not done again, and an interrupted training goes on where it stopped. Times are taken at
the end, in turn.

--config sets models of your own beside them, or compares them alone, trained and tested as their configs say. One that
derives from mmattn::demo/upernet_pyramid_scenes.py has the same data and schedule, so that only the network differs.
With several --seeds the table has the mean, the standard deviation, every single result, and the difference to the
first network with p of Welch's t-test: how often seeds alone would set networks that are equally good so far apart.
Where p is not small, there is no difference to speak of.
"""
import json
import zlib
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmengine.config import Config

from mmattn.config import CONFIGS, find_config, read_config
from mmattn.errors import UsageError
from mmattn.measuring.comparing import Network, count_parameters, draw, draw_curves, table, time_in_turn, train_and_test

BASE = CONFIGS / 'demo/upernet_pyramid_scenes.py'
DATA, RECIPE = ('train_dataloader', 'test_dataloader'), ('train_cfg', 'optim_wrapper', 'param_scheduler')


def names() -> list[str]:
    """The attentions that there are configs of."""
    return sorted(path.stem for path in (CONFIGS / 'ablation').glob('*.py'))


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('attention', nargs='*', help=f'one or several of {", ".join(names())}; or all')
    parser.add_argument('--config', nargs='+', default=[], metavar='CONFIG',
                        help='models of your own: segmentors, or detectors alone')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], metavar='SEED',
                        help='train each as often, from these seeds; default 0')
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


def listed(args: Namespace) -> list[Network]:
    """The networks to compare, their configs written."""
    work = Path(args.work_dir)
    base = network(args) if args.attention else read_config(args.config[0])
    return [Network(name, write_config(name, args, work / 'configs'), work / f'{name}_{args.iterations}')
            for name in chosen(args)] + [own(path, work, base) for path in args.config]


def own(config: str, work: Path, base: Config) -> Network:
    """The network of a user's config, and whether it has the data and the recipe of `base`; a changed config has
    another folder."""
    path = Path(find_config(config))
    cfg = read_config(path)
    content = json.dumps(cfg.to_dict(), sort_keys=True, default=str)        # the same in whatever order it is written
    folder = work / f'{path.stem}_{zlib.crc32(content.encode()):08x}'
    other = [what for what, keys in (('data', DATA), ('recipe', RECIPE))
             if any(cfg.get(key) != base.get(key) for key in keys)]
    return Network(path.stem, path, folder, f'{path.stem}: {" and ".join(other)} of its own' if other else '')


def check(args: Namespace) -> None:
    """Raise UsageError where something is wrong that can be seen before anything is trained."""
    if not args.attention and not args.config:
        raise UsageError('nothing to compare; name an attention, all, or a --config')
    unknown = [name for name in chosen(args) if name not in names()]
    if unknown:
        raise UsageError(f'{", ".join(unknown)}: no such config in configs/ablation; choose from {", ".join(names())}')
    if args.attention and not Path(args.data).is_dir():
        raise UsageError(f'no scenes in {args.data}; draw them: python -m mmattn.datasets.scenes {args.data}')
    scopes = {path: read_config(path).get('default_scope') for path in args.config}
    first = 'mmseg' if args.attention else next(iter(scopes.values()))
    for path, scope in scopes.items():
        if scope != first:
            raise UsageError(f'--config {path} is of {scope}, and what it is to stand beside of {first}: AP and mIoU '
                             'cannot be compared')


def run(args: Namespace) -> None:
    check(args)
    work = Path(args.work_dir)
    networks = listed(args)
    sizes = [count_parameters(network) for network in networks]     # one that cannot be built ends it at once
    results = [train_and_test(network, args.seeds, size) for network, size in zip(networks, sizes)]
    times = time_in_turn(networks, args.seeds[0])
    notes = [f'UperNet, {args.iterations} steps of 8 generated scenes: toy scale.'] * bool(args.attention)
    notes += [network.note for network in networks if network.note]
    text = '\n\n'.join([*notes, table(results, times)]) + '\n'
    (work / 'table.md').write_text(text)
    draw(results, times, work / 'plot.png')
    curves = draw_curves(results, args.seeds, work / 'curves.png')
    print(f'{text}\nwrote {work / "table.md"}, {work / "plot.png"}' + f' and {work / "curves.png"}' * curves)
