# Starts from DAT-B at 224 pixels: load_from. Tested on the middle of an image squeezed into 438 x 438.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_384.py',
    '../_base_/schedules/adamw_30e_in1k-384px.py', 'mmpretrain::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DAT', arch='base', drop_path_rate=0.5, window_sizes=12, pretrain_img_size=384),
    neck=dict(in_channels=1024),
    head=dict(in_channels=1024, init_cfg=None))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(438, 438), backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=384),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min_ratio=0.05, by_epoch=True, begin=0, end=30, convert_to_iter_based=True)]
optim_wrapper = dict(optimizer=dict(lr=7.5e-7))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
