_base_ = [
    '../_base_/mmattn.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet.py',
    '../_base_/schedules/adamw_300e_in1k.py', 'mmpretrain::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DeBiFormer', arch='tiny'),
    neck=dict(in_channels=512, norm='batch'),
    head=dict(in_channels=512, init_cfg=None))
train_dataloader = dict(batch_size=256)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.0005, by_epoch=True, begin=0, end=20),
    dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=True, begin=0, end=300),
]
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.1))
auto_scale_lr = dict(base_batch_size=2048)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
