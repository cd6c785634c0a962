_base_ = [
    '../_base_/mmattn.py', '../_base_/models/fpn.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_80k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DATPlusPlus', arch='tiny', drop_path_rate=0.4),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
# The papers' 80 000 iterations of 16 images, as 40 000 of 32.
train_cfg = dict(max_iters=40000, val_interval=4000)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=40000)]
default_hooks = dict(checkpoint=dict(interval=4000))
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
