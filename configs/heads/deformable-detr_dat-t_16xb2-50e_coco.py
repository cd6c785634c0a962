# Deformable DETR with DAT-T: ours, no published figure.
_base_ = [
    '../_base_/mmattn.py', '../_base_/schedules/slow_backbone.py',
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
]
model = dict(
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', drop_path_rate=0.2, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768]))
optim_wrapper = {{_base_.slow_backbone_and_points}}
