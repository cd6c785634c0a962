"""Turn an authors' checkpoint of a classifier, detector or segmentor into ours.

Prints what it renamed, dropped and resized. Everything is kept, heads too: a classifier becomes one that the configs
below `imagenet` describe. Reading the file runs no code that it carries.
"""
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch

from mmattn.checkpoint import TRANSLATIONS
from mmattn.checkpoint.convert import convert, fit
from mmattn.checkpoint.reading import read_checkpoint, state_dict_of
from mmattn.config import read_config
from mmattn.engine.building import config_errors
from mmattn.errors import CheckpointError, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('family', choices=TRANSLATIONS, help='dat and crossformer are for DAT++ and CrossFormer++, too')
    parser.add_argument('source', metavar='SRC', help="the authors' file")
    parser.add_argument('target', metavar='DST', help='file to write; must not exist')
    parser.add_argument('--config', help='config whose backbone the result is for: position bias tables of another '
                                         'size are resized, and a file of another architecture is refused')


def run(args: Namespace) -> None:
    target = Path(args.target)
    if target.exists():
        raise UsageError(f'{target} exists already; give another name')
    content = read_checkpoint(args.source)
    state = state_dict_of(content, args.source)
    try:
        conversion = convert(state, TRANSLATIONS[args.family])
        if args.config:
            backbone = build_backbone(args.config)
            fit(conversion, backbone, backbone.left_out)
    except CheckpointError as error:
        raise UsageError(f'{args.source}: {error}') from error
    meta = content.get('meta') or {}
    names = {new: meta[old] for old, new in (('CLASSES', 'classes'), ('PALETTE', 'palette')) if meta.get(old)}
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f'{target.name}.part')
    torch.save(dict(meta=dict(dataset_meta=names) if names else {}, state_dict=conversion.state), part)
    part.replace(target)
    print(conversion)
    print(f'wrote {target}')


def build_backbone(path: str) -> Any:
    """The backbone of a config, without weights.

    Raises:
        UsageError: the config has none, or a class refused its arguments or is not registered.
    """
    from mmattn.registry import MODELS
    backbone = read_config(path).get('model', {}).get('backbone')
    if not backbone:
        raise UsageError(f'{path} has no model.backbone')
    with config_errors():
        return MODELS.build({**backbone, 'init_cfg': None})
