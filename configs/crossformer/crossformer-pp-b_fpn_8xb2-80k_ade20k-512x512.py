# An assumption, the authors released no config of this model: the recipe of CrossFormer-B.
_base_ = 'crossformer-pp-s_fpn_8xb2-80k_ade20k-512x512.py'
model = dict(
    backbone=dict(arch='base', group_sizes=7, intervals=(8, 4, 2, 1), drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]))
