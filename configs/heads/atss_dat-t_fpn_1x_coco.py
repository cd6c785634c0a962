# ATSS with DAT-T: ours, no published figure. AdamW with the rates of the RetinaNets, in place of SGD.
_base_ = ['../_base_/mmattn.py', '../_base_/schedules/no_decay.py', 'mmdet::atss/atss_r50_fpn_1x_coco.py']
model = dict(
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768], start_level=0))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg={{_base_.no_decay}})
