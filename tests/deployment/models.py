"""Small detectors and segmentors of the libraries, one for each way in which heads decode."""
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

CLASSES, CHANNELS, STRIDES = 4, 16, [8, 16, 32]
NMS = dict(type='nms', iou_threshold=0.5)
LIMITS = dict(nms_pre=60, score_thr=0.3, nms=NMS, max_per_img=20, min_bbox_size=0)
PREPROCESSOR = dict(type='DetDataPreprocessor', mean=[1.0, 2.0, 3.0], std=[150.0, 160.0, 170.0], bgr_to_rgb=True,
                    pad_size_divisor=32)
BACKBONE = dict(type='mmdet.ResNet', depth=18, base_channels=4, num_stages=4, out_indices=(1, 2, 3))
NECK = dict(type='mmdet.FPN', in_channels=[8, 16, 32], out_channels=CHANNELS, num_outs=3)
COMMON = dict(num_classes=CLASSES, in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=1)
SQUARES = dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=STRIDES)
NORM = dict(type='GN', num_groups=4)
DELTAS = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])

HEADS = dict(
    RetinaNet=('RetinaNet', dict(type='RetinaHead', anchor_generator=dict(
        type='AnchorGenerator', octave_base_scale=2, scales_per_octave=2, ratios=[0.5, 1.0], strides=STRIDES))),
    softmax=('RetinaNet', dict(type='RetinaHead', anchor_generator=SQUARES, loss_cls=dict(type='CrossEntropyLoss'))),
    FCOS=('FCOS', dict(type='FCOSHead', strides=STRIDES, norm_on_bbox=True, norm_cfg=NORM)),
    ATSS=('ATSS', dict(type='ATSSHead', anchor_generator=SQUARES, bbox_coder=DELTAS, norm_cfg=NORM)),
    GFL=('GFL', dict(type='GFLHead', anchor_generator=SQUARES, reg_max=7, norm_cfg=NORM)),
    RTMDet=('RTMDet', dict(
        type='RTMDetSepBNHead', anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=STRIDES),
        bbox_coder=dict(type='DistancePointBBoxCoder'), with_objectness=False, exp_on_reg=True)),
    YOLOX=('YOLOX', dict(type='YOLOXHead', stacked_convs=1, strides=STRIDES)))


def detector(name, **limits):
    """One of `HEADS`, with weights that give scores over the whole range, and boxes that overlap."""
    kind, head = HEADS[name]
    with DefaultScope.overwrite_default_scope('mmdet'):
        net = MODELS.build(ConfigDict(
            type=kind, data_preprocessor=PREPROCESSOR, backbone=BACKBONE, neck=NECK, bbox_head={**COMMON, **head},
            test_cfg={**LIMITS, **limits}))
    return lively(net)


def segmentor(classes=CLASSES, pool_scales=(), **settings):
    """UPerNet's little brother: a convolution on the coarsest map, behind pyramid pooling if there are scales."""
    kind = dict(type='PSPHead', pool_scales=pool_scales) if pool_scales else dict(
        type='FCNHead', num_convs=1, concat_input=False)
    head = dict(**kind, in_channels=32, in_index=2, channels=8, num_classes=classes, out_channels=classes,
                threshold=0.5)
    with DefaultScope.overwrite_default_scope('mmseg'):
        net = MODELS.build(ConfigDict(
            type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor'), backbone=BACKBONE,
            decode_head=head, test_cfg=dict(mode='whole', **settings)))
    return lively(net)


def lively(net):
    generator = torch.Generator().manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=(1.5 / fan) ** 0.5, generator=generator)
    return net.eval()
