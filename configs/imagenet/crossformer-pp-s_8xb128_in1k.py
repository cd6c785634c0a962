_base_ = [
    '../_base_/mmattn.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet.py',
    '../_base_/schedules/adamw_300e_in1k.py', 'mmpretrain::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.CrossFormerPlusPlus', arch='small', drop_path_rate=0.2),
    neck=dict(in_channels=512),
    head=dict(in_channels=512))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
