# The same, from the weights of a classifier of single shapes.
_base_ = 'retinanet_dat_scenes_1e.py'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/classifier_dat_shapes/epoch_5.pth')))
