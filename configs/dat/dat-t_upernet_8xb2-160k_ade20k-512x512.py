# An assumption, no training of DAT is published: the recipe of DAT++ in float32.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/upernet.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    # test images have any size, and the authors' patches leave out what does not fill one
    backbone=dict(type='mmattn.DAT', arch='tiny', drop_path_rate=0.3, pad_patches=False),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
