_base_ = [
    '../_base_/mmattn.py', '../_base_/models/fpn.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_80k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.BiFormer', arch='small', num_windows=8, drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(lr=2e-4), paramwise_cfg=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=1000, end=80000, eta_min=0.0),
]
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
