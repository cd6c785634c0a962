_base_ = [
    '../_base_/mmattn.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_square.py',
    '../_base_/schedules/adamw_300e_in1k.py', 'mmpretrain::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DAT', arch='tiny', drop_path_rate=0.2),
    neck=dict(in_channels=768),
    head=dict(in_channels=768, init_cfg=None))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
