# Starts from DAT++-B at 224 pixels: load_from. Position bias tables stay those of 224.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_384.py',
    '../_base_/schedules/adamw_30e_in1k-384px.py', 'mmpretrain::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DATPlusPlus', arch='base', drop_path_rate=0.6),
    neck=dict(in_channels=1024),
    head=dict(in_channels=1024, init_cfg=None))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, end=30, convert_to_iter_based=True)]
optim_wrapper = dict(optimizer=dict(lr=7.5e-6))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
