# UperNet with a small BiFormer, trained from scratch on CamVid: minutes on two CPU cores.
_base_ = [
    '../_base_/mmattn.py', 'mmseg::_base_/models/upernet_swin.py', '../_base_/models/small_biformer.py',
    '../_base_/datasets/camvid.py', '../_base_/schedules/adamw_600_scenes.py', 'mmseg::_base_/default_runtime.py'
]
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=(180, 240), seg_pad_val=11),
    backbone={{_base_.small_biformer}},
    decode_head=dict(in_channels=[32, 64, 128, 192], channels=64, num_classes=11, ignore_index=11, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=64, num_classes=11, ignore_index=11, norm_cfg=norm_cfg))
train_cfg = dict(val_interval=100)
randomness = dict(seed=0)
