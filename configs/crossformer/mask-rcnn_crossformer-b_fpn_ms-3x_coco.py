# An assumption, as that of CrossFormer-S.
_base_ = 'mask-rcnn_crossformer-s_fpn_ms-3x_coco.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.3))
