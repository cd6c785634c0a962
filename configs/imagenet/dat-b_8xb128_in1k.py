# A lower rate, a longer warm-up, and gradients clipped at 1.
_base_ = 'dat-t_8xb128_in1k.py'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.5),
    neck=dict(in_channels=1024),
    head=dict(in_channels=1024))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.00125, by_epoch=True, begin=0, end=50, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=300, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=8e-4), clip_grad=dict(max_norm=1.0))
