# Mask2Former for instances with DAT-T: ours, no published figure.
_base_ = [
    '../_base_/mmattn.py', '../_base_/schedules/slow_backbone.py',
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'
]
model = dict(
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', drop_path_rate=0.3),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = {{_base_.slow_backbone_still_queries}}
