# Mask2Former for label maps with DAT-T: ours, no published figure. The head is made of parts of mmdet.
_base_ = [
    '../_base_/hub.py', '../_base_/schedules/slow_backbone.py',
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
]
custom_imports = dict(imports=['mmattn.registry', 'mmdet.models'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = {{_base_.slow_backbone_still_queries}}
