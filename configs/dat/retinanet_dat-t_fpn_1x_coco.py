_base_ = [
    '../_base_/mmattn.py', 'mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768], start_level=0, num_outs=5))
# No decay for norms and position bias tables.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(
    rpe_table=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.))))
train_dataloader = dict(batch_size=2)
