# RetinaNet with ResNet-50 and deformable attention behind the third convolution of each block of stages 3 and 4.
_base_ = ['../_base_/mmattn.py', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']
model = dict(backbone=dict(plugins=[
    dict(cfg=dict(type='mmattn.AttentionPlugin', embed_dims=256, layer_scale=0.1,
                  attention=dict(type='DeformableAttention', num_heads=8, offset_groups=4, stride=2)),
         stages=(False, False, True, True), position='after_conv3'),
]))
