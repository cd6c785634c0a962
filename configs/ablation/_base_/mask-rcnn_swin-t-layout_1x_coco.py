# Mask R-CNN on COCO with the layout of Swin-T; the configs beside this one put an attention into it.
_base_ = [
    '../../_base_/mmattn.py', '../../_base_/models/mask-rcnn.py', 'mmdet::_base_/datasets/coco_instance.py',
    '../../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.AttentionPyramid', attention=dict(type='ShiftedWindowAttention')),
    neck=dict(in_channels=[96, 192, 384, 768]))
