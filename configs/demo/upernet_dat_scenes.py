# UperNet with a small DAT, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/small_upernet.py', '../_base_/models/small_dat.py',
    '../_base_/datasets/scenes_segmentation.py', '../_base_/schedules/adamw_600_scenes.py',
    'mmseg::_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(128, 160)),
    backbone={{_base_.small_dat}},
    decode_head=dict(num_classes=6),
    auxiliary_head=dict(num_classes=6))
randomness = dict(seed=0)
