# An assumption, no training of DAT is published: the rates of Swin, whose detection code that of DAT grew from, and as
# there multi-scale for 12 epochs too; stochastic depth of DAT++.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/cascade-mask-rcnn.py', '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DAT', arch='tiny'),
    neck=dict(in_channels=[96, 192, 384, 768]))
