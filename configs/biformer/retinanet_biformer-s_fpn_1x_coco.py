_base_ = [
    '../_base_/mmattn.py', '../_base_/models/retinanet.py', 'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.BiFormer', arch='small', num_windows=16, drop_path_rate=0.2, norm_eval=True),
    neck=dict(in_channels=[128, 256, 512]))
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(weight_decay=1e-4), paramwise_cfg=None)
