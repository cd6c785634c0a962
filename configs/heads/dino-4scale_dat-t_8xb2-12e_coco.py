# DINO with DAT-T: ours, no published figure.
_base_ = ['../_base_/mmattn.py', '../_base_/schedules/slow_backbone.py', 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py']
model = dict(
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768]))
optim_wrapper = {{_base_.slow_backbone}}
