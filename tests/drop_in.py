"""Architectures of mmdet's and mmseg's own configs with another backbone, by a change of the config alone."""
import re
from importlib import import_module
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub

from mmattn.config import read_config
from mmattn.engine.building import build_model
from mmattn.engine.levels import describe_unread
from tests.conftest import ROOT
from tests.steps import batch, predict_once, train_once, without_gradient

FAMILIES = {family: Config.fromfile(ROOT / f'configs/_base_/models/small_{family}.py')[f'small_{family}']
            for family in ('dat', 'crossformer', 'biformer')}
DIMS = [stage.embed_dims for stage in FAMILIES['dat'].arch]         # of all three
RESNET = {1024: 2, 2048: 3}                                         # the stage that has so many channels


def configs_of(library):
    """The folder of a library's own configs."""
    return Path(import_module(library).__file__).parent / '.mim/configs'


def try_out(library, name, family, changes=(), side=128):
    """Raise unless a small backbone of ours takes part in a training step and a test step of a config.

    Args:
        library: 'mmdet' or 'mmseg'.
        name: of the config below the library's own, without '.py'.
        family: 'dat', 'crossformer' or 'biformer'; None leaves the backbone of the config.
        changes: what else is changed in the config, by dotted names.
        side: of the images.
    """
    size = (side, side)
    torch.manual_seed(0)
    folder = configs_of(library)
    cfg = read_config(str(folder / f'{name}.py'))
    asked = dict(with_masks='with_mask=True' in cfg.pretty_text or 'LoadPanoptic' in cfg.pretty_text,
                 with_proposals='rpn_head' not in cfg.model)
    without_weights(cfg.model)
    lighten(cfg.model, size)
    if family:
        swap(cfg.model, FAMILIES[family])
    cfg.merge_from_dict({key: value.replace('CONFIGS', str(folder)) if isinstance(value, str) else value
                         for key, value in dict(changes).items()})
    model = build_model(cfg)
    for line in describe_unread(model):
        used = re.search(r'out_norm=\(([\d, ]*)\)', line)[1]
        cfg.model.backbone.out_norm = [int(stage) for stage in re.findall(r'\d', used)]
        model = build_model(cfg)
    MessageHub.get_instance(name).update_info_dict(dict(iter=0, epoch=0, max_iters=10, max_epochs=10))
    model.init_weights()
    losses = train_once(model, batch(library, size=size, **asked), library)
    assert all(torch.as_tensor(value).isfinite().all() for value in losses.values()), f'losses {losses}'
    lacking = without_gradient(model)
    assert not lacking, f'{len(lacking)} parameters without a gradient: {", ".join(lacking[:4])}'
    assert len(predict_once(model, batch(library, size=size, **asked), library)) == 2


def swap(model, backbone):
    """Replace the backbone, and say how many channels its maps have wherever the config says it."""
    old, neck = model.backbone, model.get('neck')
    first = neck[0] if isinstance(neck, list) else neck
    wanted = maps_wanted(model, first)
    if 'ResNe' in old.type or 'Swin' in old.type:
        indices = list(old.get('out_indices', range(4)))
        indices = indices[-1:] if wanted == 1 and first is not None else indices
    else:
        indices = list(range(4))[-wanted:]
    channels = [DIMS[i] for i in indices]
    if first is not None:
        kind = type(first.get('in_channels'))
        if kind in (list, tuple, int):
            first.in_channels = channels[-1] if kind is int else kind(channels)
    elif 'rpn_head' in model:
        replace_channels({name: node for name, node in model.items() if name.endswith('head')}, indices)
    else:
        for _, head in heads(model):
            set_channels(head, channels)
    model.pop('pretrained', None)
    model.backbone = dict(backbone, out_indices=indices)
    del model.backbone['_delete_']


def heads(model):
    """The parts of a model that are called heads, one by one, with their names."""
    for name, part in model.items():
        if name.endswith('head') and part:
            yield from ((name, one) for one in (part if isinstance(part, list) else [part]))


def maps_wanted(model, neck):
    """How many maps the neck, or else the heads, read."""
    if neck is not None:
        return len(neck.in_channels) if isinstance(neck.get('in_channels'), (list, tuple)) else 1
    wanted = [1]
    for _, head in heads(model):
        several = isinstance(head.get('in_channels'), (list, tuple))
        index = head.get('in_index', list(range(len(head.in_channels))) if several else -1)
        wanted += [-i if i < 0 else i + 1 for i in (index if isinstance(index, (list, tuple)) else [index])]
    return max(wanted)


def set_channels(node, channels, top=True):
    """Set what a head, and heads of mmseg inside it, want of the maps that they read."""
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list)):
            set_channels(value, channels, top=False)
    if isinstance(node, dict) and 'in_channels' in node and (top or 'in_index' in node):
        several = isinstance(node.in_channels, (list, tuple))
        index = node.get('in_index', list(range(len(channels))) if several else -1)
        node.in_channels = [channels[i] for i in index] if several else channels[index]
    if 'c1_in_channels' in node:
        node.c1_in_channels = channels[0]


def replace_channels(node, indices):
    """Replace the channels of ResNet by those of the new backbone, in heads of mmdet that read its maps."""
    for key, value in node.items():
        if isinstance(value, dict):
            replace_channels(value, indices)
        elif key in ('in_channels', 'out_channels') and isinstance(value, (list, tuple)):
            node[key] = [DIMS[i] for i in indices][:len(value)]
        elif key in ('in_channels', 'out_channels') and value in RESNET:
            node[key] = DIMS[RESNET[value]]


def without_weights(node):
    """Start from nothing, wherever a config names a file of weights."""
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list)):
            without_weights(value)
    if isinstance(node, dict):
        for key in ('pretrained', 'teacher_ckpt'):
            if node.get(key):
                node[key] = None
        setting = node.get('init_cfg')
        if isinstance(setting, dict) and setting.get('type') == 'Pretrained':
            node.init_cfg = None


LIGHT = {'nms_pre': 50, 'max_per_img': 20, 'num': 32, 'num_queries': 50, 'num_proposals': 20, 'num_points': 500}


def lighten(model, size):
    """Less to do in a step: fewer proposals, samples and queries, small images."""
    def visit(node):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, (dict, list)):
                visit(value)
            elif key in LIGHT and isinstance(value, int):
                node[key] = min(value, LIGHT[key])
    visit(model)
    settings = model.data_preprocessor
    settings.pop('batch_augments', None)
    if settings.get('size'):
        settings.size = size
