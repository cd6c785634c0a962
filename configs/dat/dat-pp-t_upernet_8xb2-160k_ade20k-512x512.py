_base_ = [
    '../_base_/mmattn.py', '../_base_/models/upernet.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DATPlusPlus', arch='tiny', drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
optim_wrapper = dict(type='mmattn.AmpOptimWrapper', loss_scale='dynamic')
