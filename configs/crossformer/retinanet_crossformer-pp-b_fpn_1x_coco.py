# An assumption, the authors released no config of this model: the recipe of CrossFormer-B.
_base_ = 'retinanet_crossformer-pp-s_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3),
    neck=dict(in_channels=[192, 384, 768]))
