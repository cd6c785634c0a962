_base_ = [
    '../_base_/mmattn.py', '../_base_/models/fpn.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_80k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.CrossFormer', arch='small', group_sizes=(14, 14, 7, 7), intervals=(16, 8, 2, 1),
                  drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(paramwise_cfg=None)
