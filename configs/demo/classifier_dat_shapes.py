# The small DAT of the detector in retinanet_dat_scenes_1e, as a classifier of generated single shapes.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/small_dat.py', '../_base_/datasets/shapes.py',
    '../_base_/schedules/adamw_5e_scenes.py', 'mmpretrain::_base_/default_runtime.py'
]
model = dict(
    type='ImageClassifier',
    backbone={{_base_.small_dat_last}},
    neck=dict(type='mmattn.NormalizedPooling', in_channels=192),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=192))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=32)
randomness = dict(seed=0)
