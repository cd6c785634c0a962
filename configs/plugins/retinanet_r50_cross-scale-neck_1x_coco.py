# RetinaNet whose levels blend by cross-scale embedding and near and far groups instead of an FPN.
_base_ = ['../_base_/mmattn.py', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']
model = dict(
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(_delete_=True, type='mmattn.CrossScaleNeck', in_channels=[512, 1024, 2048], num_outs=5))
