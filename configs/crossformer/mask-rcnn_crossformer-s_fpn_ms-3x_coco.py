# An assumption, the authors released no config of 36 epochs: the recipe of 12, multi-scale as in DETR.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/mask-rcnn.py', '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/adamw_3x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.CrossFormer', arch='small', group_sizes=(14, 14, 7, 7), intervals=(16, 8, 2, 1),
                  drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), paramwise_cfg=None)
