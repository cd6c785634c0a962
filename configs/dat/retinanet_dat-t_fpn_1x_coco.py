_base_ = [
    '../_base_/mmattn.py', '../_base_/models/retinanet.py', 'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DAT', arch='tiny'),
    neck=dict(in_channels=[192, 384, 768]))
