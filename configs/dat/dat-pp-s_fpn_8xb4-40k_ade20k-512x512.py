_base_ = 'dat-pp-t_fpn_8xb4-40k_ade20k-512x512.py'
model = dict(
    backbone=dict(arch='small'),
    neck=dict(in_channels=[96, 192, 384, 768]))
