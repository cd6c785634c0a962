_base_ = [
    '../_base_/mmattn.py', '../_base_/models/fpn.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_80k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.BiFormer', arch='small', num_windows=8, drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(lr=2e-4), paramwise_cfg=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1001),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=80000, eta_min_ratio=1e-8),
]
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
train_cfg = dict(val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000, max_keep_ckpts=1, save_best='mIoU'))
sync_bn = 'torch'     # the backbone's batch norms, too, see all images of a step
