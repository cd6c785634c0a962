# UperNet with a small DAT, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = [
    '../_base_/mmattn.py', 'mmseg::_base_/models/upernet_swin.py', '../_base_/models/small_dat.py',
    '../_base_/datasets/scenes_segmentation.py', '../_base_/schedules/adamw_600_scenes.py',
    'mmseg::_base_/default_runtime.py'
]
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=(128, 160)),
    backbone={{_base_.small_dat}},
    decode_head=dict(in_channels=[32, 64, 128, 192], channels=64, num_classes=6, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=64, num_classes=6, norm_cfg=norm_cfg))
randomness = dict(seed=0)
