_base_ = [
    '../_base_/mmattn.py', 'mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny'),
    neck=dict(in_channels=[96, 192, 384, 768]))
# No decay for norms and position bias tables.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(
    rpe_table=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.))))
