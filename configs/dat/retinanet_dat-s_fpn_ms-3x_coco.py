# An assumption, as that of DAT-T; stochastic depth of DAT++.
_base_ = 'retinanet_dat-t_fpn_ms-3x_coco.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.5))
