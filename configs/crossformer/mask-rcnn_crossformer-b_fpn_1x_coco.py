_base_ = 'mask-rcnn_crossformer-s_fpn_1x_coco.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.3))
