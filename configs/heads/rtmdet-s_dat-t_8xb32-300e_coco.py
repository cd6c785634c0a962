# Neck and head of RTMDet-s with DAT-T: ours, no published figure. As mmdet has it for RTMDet with a Swin, images are
# RGB, as the weights of classifiers want them, and the learning rate is a quarter.
_base_ = ['../_base_/mmattn.py', '../_base_/schedules/no_decay.py', 'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py']
base_lr = 0.001
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', drop_path_rate=0.2, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768]))
optim_wrapper = dict(optimizer=dict(lr=base_lr), paramwise_cfg={{_base_.no_decay}})
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(type='CosineAnnealingLR', eta_min=0.05 * base_lr, begin=150, end=300, T_max=150, by_epoch=True,
         convert_to_iter_based=True),
]
