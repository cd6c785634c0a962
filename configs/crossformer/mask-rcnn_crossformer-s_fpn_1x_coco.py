_base_ = [
    '../_base_/mmattn.py', '../_base_/models/mask-rcnn.py', 'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), paramwise_cfg=None)
