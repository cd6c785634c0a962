_base_ = [
    '../_base_/mmattn.py', '../_base_/models/fpn.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_40k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DATPlusPlus', arch='tiny', drop_path_rate=0.4),
    neck=dict(in_channels=[64, 128, 256, 512]))
train_dataloader = dict(batch_size=4)
