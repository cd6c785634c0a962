_base_ = [
    '../_base_/mmattn.py', '../_base_/models/retinanet.py', 'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DeBiFormer', arch='small', num_windows=16),
    neck=dict(in_channels=[128, 256, 512]))
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(weight_decay=1e-4),
    # told by name, as the authors do, tables decay, and the batch norms of these parts
    paramwise_cfg=dict(custom_keys={
        'rpe_table': dict(decay_mult=1.), 'relative_position_bias_table': dict(decay_mult=1.),
        'backbone.stem': dict(decay_mult=1.), 'backbone.downsamples': dict(decay_mult=1.)}))
