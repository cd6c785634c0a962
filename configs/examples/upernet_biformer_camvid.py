# UperNet with a small BiFormer, trained from scratch on CamVid: minutes on two CPU cores.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/small_upernet.py', '../_base_/models/small_biformer.py',
    '../_base_/datasets/camvid.py', '../_base_/schedules/adamw_600_scenes.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(180, 240), seg_pad_val=11),
    backbone={{_base_.small_biformer}},
    decode_head=dict(num_classes=11, ignore_index=11),
    auxiliary_head=dict(num_classes=11, ignore_index=11))
train_cfg = dict(val_interval=100)
randomness = dict(seed=0)
