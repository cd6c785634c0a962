# An assumption, as that of DAT-T; stochastic depth of DAT++.
_base_ = 'dat-t_fpn_8xb4-40k_ade20k-512x512.py'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.7),
    neck=dict(in_channels=[128, 256, 512, 1024]))
