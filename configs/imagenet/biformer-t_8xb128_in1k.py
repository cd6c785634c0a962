_base_ = [
    '../_base_/mmattn.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet.py',
    '../_base_/schedules/adamw_300e_in1k_biformer.py', 'mmpretrain::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.BiFormer', arch='tiny', drop_path_rate=0.1),
    neck=dict(in_channels=512, norm='batch'),
    head=dict(in_channels=512))
# Repeated augmentation: a step has three versions of an image.
train_dataloader = dict(sampler=dict(type='RepeatAugSampler', shuffle=True))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
