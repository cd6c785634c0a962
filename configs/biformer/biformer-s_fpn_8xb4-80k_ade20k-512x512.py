_base_ = [
    '../_base_/mmattn.py', 'mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True, type='mmattn.BiFormer', arch='small', num_windows=8, drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 256, 512]),
    decode_head=dict(num_classes=150))
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
# 80 000 iterations of 32 images, cosine decay.
train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=1000, end=80000, eta_min=0.0),
]
default_hooks = dict(checkpoint=dict(interval=8000))
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
