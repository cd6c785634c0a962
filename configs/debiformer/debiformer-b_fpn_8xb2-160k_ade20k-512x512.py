_base_ = [
    '../_base_/mmattn.py', '../_base_/models/fpn.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DeBiFormer', arch='base', num_windows=8, drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3001),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=160000, eta_min_ratio=1e-10),
]
