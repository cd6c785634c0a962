# Multi-scale already for 12 epochs, as published.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/cascade-mask-rcnn.py', '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DATPlusPlus', arch='tiny'),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(type='mmattn.AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(lr=4e-4))
auto_scale_lr = dict(base_batch_size=64)
