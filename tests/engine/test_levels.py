"""A neck or head that reads other maps than the backbone gives is named before the first step."""
import re

import pytest
import torch
from mmengine.config import Config

from mmattn.config import read_config
from mmattn.engine.building import build_model
from mmattn.engine.levels import describe_unread
from mmattn.errors import UsageError
from tests.conftest import ROOT
from tests.models import SMALL
from tests.test_configs import NAMES, parsed

pytestmark = pytest.mark.filterwarnings('ignore:topk=')
LIST = dict(type='LocalAttention', num_heads=2)


def config(library, **backbone):
    """RetinaNet or UperNet as the library's own base has it, with a small DAT of 8, 12, 16 and 24 channels."""
    name = 'retinanet_r50_fpn' if library == 'mmdet' else 'upernet_r50'
    cfg = Config.fromfile(ROOT / 'configs/_base_/mmattn.py')
    cfg = Config({**cfg, 'model': Config.fromfile(ROOT / f'configs/_base_/models/{name.partition("_")[0]}.py').model,
                  'default_scope': library})
    cfg.model.backbone = dict(type='mmattn.DAT', arch=SMALL, pretrain_img_size=64, **backbone)
    if library == 'mmdet':
        cfg.model.neck = dict(type='FPN', in_channels=[8, 12, 16, 24], out_channels=16, num_outs=5)
        cfg.model.bbox_head.update(in_channels=16, feat_channels=16)
        cfg.model.bbox_head.anchor_generator.strides = [4, 8, 16, 32, 64]
    else:
        cfg.model.pop('pretrained', None)
        cfg.model.data_preprocessor.size = (64, 64)
        norm = dict(type='BN')
        cfg.model.decode_head.update(in_channels=[8, 12, 16, 24], channels=8, norm_cfg=norm)
        cfg.model.auxiliary_head.update(in_channels=16, channels=8, norm_cfg=norm)
    return cfg


def features(cfg):
    model = build_model(cfg).eval()
    maps = model.extract_feat(torch.rand(1, 3, 64, 64))
    return model, (model.decode_head(maps) if 'decode_head' in cfg.model else model.bbox_head(maps))


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_what_fits_is_built(library):
    model, _ = features(config(library))
    assert describe_unread(model) == []


@pytest.mark.parametrize(('backbone', 'neck', 'message'), [
    (dict(out_indices=(1, 2, 3)), {},
     'model.neck.in_channels=[8, 12, 16, 24], but DAT with out_indices=(1, 2, 3) gives 3 maps of 12, 16, 24 channels; '
     'FPN wants the channels of each map'),
    ({}, dict(in_channels=[12, 16, 24]),
     'model.neck.in_channels=[12, 16, 24], but DAT with out_indices=(0, 1, 2, 3) gives 4 maps of 8, 12, 16, 24 '
     'channels'),
    ({}, dict(in_channels=[8, 12, 16, 32]), 'model.neck.in_channels=[8, 12, 16, 32], but DAT'),
    (dict(out_indices=(3,)), dict(type='PAFPN'), 'gives 1 map of 24 channels; PAFPN wants'),
    ({}, [dict(type='mmattn.AttentionNeck', in_channels=[8, 12, 16], attention=LIST), dict(type='FPN')],
     'model.neck.0.in_channels=[8, 12, 16], but DAT'),
    ({}, [dict(type='mmattn.AttentionNeck', in_channels=[8, 12, 16, 24], attention=LIST),
          dict(type='FPN', in_channels=[12, 16, 24])],
     'model.neck.1.in_channels=[12, 16, 24], but the AttentionNeck before it gives 4 maps of 8, 12, 16, 24 channels'),
    ({}, [dict(type='FPN'), dict(type='mmattn.AttentionNeck', in_channels=[16] * 4, attention=LIST)],
     'model.neck.1.in_channels=[16, 16, 16, 16], but the FPN before it gives 5 maps of 16, 16, 16, 16, 16 channels'),
    ({}, dict(type='mmattn.CrossScaleNeck', in_channels=[8, 12, 16]), 'CrossScaleNeck wants'),
    ({}, dict(type='HRFPN', in_channels=[8, 12, 16]), 'HRFPN wants'),
    ({}, dict(type='NASFPN', in_channels=[8, 12, 17], stack_times=1), 'NASFPN wants'),
    (dict(out_indices=(0, 1)), dict(type='NASFPN', in_channels=[8, 12, 16], stack_times=1), 'NASFPN wants'),
    ({}, dict(type='ChannelMapper', in_channels=[12, 16, 24]), 'model.neck.in_channels=[12, 16, 24], but DAT with '
     'out_indices=(0, 1, 2, 3) gives 4 maps of 8, 12, 16, 24 channels; ChannelMapper wants'),
    (dict(out_indices=(1, 2, 3)), dict(type='ChannelMapper', in_channels=[12, 16, 32]), 'ChannelMapper wants'),
])
def test_a_neck_of_mmdet(backbone, neck, message):
    cfg = config('mmdet', **backbone)
    usual = dict(type='FPN', in_channels=[8, 12, 16, 24], out_channels=16, num_outs=5)
    parts = [{**usual, **one} if 'Attention' not in one.get('type', '') else one
             for one in (neck if isinstance(neck, list) else [neck])]
    cfg.model.neck = parts if isinstance(neck, list) else parts[0]
    with pytest.raises(UsageError, match=re.escape(message)):
        build_model(cfg)


@pytest.mark.parametrize(('backbone', 'head', 'message'), [
    (dict(out_indices=(0, 1, 2)), {},
     'model.decode_head reads in_index=[0, 1, 2, 3] with in_channels=[8, 12, 16, 24], but DAT with '
     'out_indices=(0, 1, 2) gives 3 maps of 8, 12, 16 channels'),
    ({}, dict(in_channels=[8, 12, 16, 32]), 'model.decode_head reads in_index=[0, 1, 2, 3] with in_channels=[8, 12, '),
    ({}, dict(type='FCNHead', in_channels=16, in_index=3, pool_scales=None, num_convs=1),
     'model.decode_head reads in_index=3 with in_channels=16, but'),
    ({}, dict(type='FCNHead', in_index=[2, 3], in_channels=[16, 23], input_transform='resize_concat', pool_scales=None),
     'model.decode_head reads in_index=[2, 3] with in_channels=39, but'),
])
def test_a_head_of_mmseg(backbone, head, message):
    cfg = config('mmseg', **backbone)
    cfg.model.decode_head.update(head)
    if cfg.model.decode_head.pool_scales is None:
        del cfg.model.decode_head['pool_scales']
    with pytest.raises(UsageError, match=re.escape(message)):
        build_model(cfg)


def with_pixel_decoder(library, kind, **backbone):
    """The library's own Mask2Former or MaskFormer, small, with the small DAT."""
    names = {('mmdet', 'Mask2Former'): 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
             ('mmseg', 'Mask2Former'): 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
             ('mmdet', 'MaskFormer'): 'maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
             ('mmseg', 'MaskFormer'): 'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py'}
    cfg = read_config(f'{library}::{names[library, kind]}')
    cfg.model.backbone = dict(type='mmattn.DAT', arch=SMALL, pretrain_img_size=64, **backbone)
    cfg.model.pop('pretrained', None)
    head = cfg.model.panoptic_head if library == 'mmdet' else cfg.model.decode_head
    head.in_channels = [8, 12, 16, 24]
    return cfg, head


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
@pytest.mark.parametrize(('kind', 'decoder'), [('Mask2Former', 'MSDeformAttnPixelDecoder'),
                                               ('MaskFormer', '(TransformerEncoder)?PixelDecoder')])
def test_a_pixel_decoder(library, kind, decoder):
    cfg, head = with_pixel_decoder(library, kind)
    with torch.device('meta'):
        assert describe_unread(build_model(cfg)) == []
    head.in_channels = [8, 12, 16, 32]
    name = 'panoptic_head' if library == 'mmdet' else 'decode_head'
    with torch.device('meta'), pytest.raises(UsageError, match=re.escape(
            f'model.{name}.in_channels=[8, 12, 16, 32], but DAT with out_indices=(0, 1, 2, 3) gives 4 maps of 8, 12, '
            '16, 24 channels; ') + f'{decoder} wants the channels of each map'):
        build_model(cfg)
    cfg, _ = with_pixel_decoder(library, kind, out_indices=(1, 2, 3))
    with torch.device('meta'), pytest.raises(UsageError, match='gives 3 maps of 12, 16, 24 channels'):
        build_model(cfg)


def test_an_auxiliary_head_and_one_of_several():
    cfg = config('mmseg')
    cfg.model.auxiliary_head.in_index = 3
    with pytest.raises(UsageError, match=r'model\.auxiliary_head reads in_index=3 with in_channels=16'):
        build_model(cfg)
    good = dict(cfg.model.auxiliary_head, in_index=2)
    cfg.model.auxiliary_head = [good, dict(good, in_index=4)]
    with pytest.raises(UsageError, match=r'model\.auxiliary_head\.1 reads in_index=4 with in_channels=16'):
        build_model(cfg)


@pytest.mark.parametrize('neck', [
    dict(type='FPN', in_channels=[99, 12, 16, 24], start_level=1, add_extra_convs='on_input'),   # not the first
    dict(type='FPN', in_channels=[8, 12, 16, 99], end_level=2, num_outs=3),
    dict(type='NASFPN', in_channels=[8, 12, 16], stack_times=1),                    # takes more maps than it reads
    [dict(type='mmattn.AttentionNeck', in_channels=[8, 12, 16, 24], attention=LIST, levels=[-1]),
     dict(type='FPN', in_channels=[8, 12, 16, 24])],
    dict(type='ChannelMapper', in_channels=[8, 12, 16, 24]),
    dict(type='mmattn.CrossScaleNeck', in_channels=[8, 12, 16, 24]),
], ids=lambda neck: neck['type'] if isinstance(neck, dict) else 'two')
def test_what_works_is_not_refused(neck):
    cfg = config('mmdet')
    many = neck if isinstance(neck, list) else [neck]
    parts = [one if 'AttentionNeck' in one['type'] else {**dict(out_channels=16, num_outs=5), **one} for one in many]
    cfg.model.neck = parts if isinstance(neck, list) else parts[0]
    features(cfg)


@pytest.mark.parametrize('head', [
    dict(in_index=-1, in_channels=24), dict(in_index=3, in_channels=24),
    dict(in_index=[1, 3], in_channels=[12, 24], input_transform='resize_concat')])
def test_heads_that_work_are_not_refused(head):
    cfg = config('mmseg')
    cfg.model.decode_head = {'type': 'FCNHead', 'channels': 8, 'num_convs': 1, 'num_classes': 3,
                             'norm_cfg': dict(type='BN'), **head}
    features(cfg)


def test_backbones_of_others_are_left_alone():
    cfg = config('mmdet')
    cfg.model.backbone = dict(type='ResNet', depth=18, out_indices=(2, 3))
    build_model(cfg)        # its FPN has channels of another network


@pytest.mark.parametrize(('backbone', 'neck', 'lines'), [
    ({}, dict(start_level=1), ['model.backbone: no part reads the map of stage 0, whose norm gets no gradient; '
                               'out_norm=(1, 2, 3) leaves it out']),
    (dict(out_norm=(1, 2, 3)), dict(start_level=1), []),
    (dict(frozen_stages=1), dict(start_level=1), []),           # nothing wants a gradient
    (dict(out_norm=False), dict(start_level=1), []),
    ({}, dict(type='NASFCOS_FPN'), ['model.backbone: no part reads the map of stage 0, whose norm gets no gradient; '
                                    'out_norm=(1, 2, 3) leaves it out']),
])
def test_norms_of_maps_that_no_neck_reads(backbone, neck, lines):
    cfg = config('mmdet', **backbone)
    cfg.model.neck.update(neck)
    model = build_model(cfg)
    assert describe_unread(model) == lines
    sum(x.square().sum() for x in model.extract_feat(torch.rand(2, 3, 64, 64))).backward()
    without = [name for name, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == (['norms.0.weight', 'norms.0.bias'] if lines else [])


def test_norms_of_maps_that_no_head_reads():
    cfg = config('mmseg')
    cfg.model.decode_head = dict(type='FCNHead', in_channels=24, in_index=3, channels=8, num_convs=1, num_classes=3,
                                 norm_cfg=dict(type='BN'))
    line, = describe_unread(build_model(cfg))
    assert 'no part reads the map of stage 0, 1, whose norm' in line      # the auxiliary head reads that of stage 2
    assert line.endswith('out_norm=(2, 3) leaves it out')


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_no_recipe_has_a_norm_that_nothing_reads(name):
    with torch.device('meta'):
        assert describe_unread(build_model(parsed(name))) == []


def test_a_command_ends_in_one_line(one_line):
    assert one_line('tools/get_flops.py', 'configs/demo/retinanet_biformer_scenes.py', '--cfg-options',
                    'model.neck.in_channels=[32,64,128]').startswith(
        'error: model.neck.in_channels=[32, 64, 128], but BiFormer with out_indices=(0, 1, 2, 3) gives 4 maps of')
