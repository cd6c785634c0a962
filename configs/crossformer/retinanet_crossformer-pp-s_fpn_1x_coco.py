_base_ = [
    '../_base_/mmattn.py', '../_base_/models/retinanet.py', 'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.CrossFormerPlusPlus', arch='small', far_groups='map', group_sizes=7,
                  intervals=(8, 4, 2, 1), drop_path_rate=0.2),
    neck=dict(in_channels=[128, 256, 512]))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), paramwise_cfg=None)
