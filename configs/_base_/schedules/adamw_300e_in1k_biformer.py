# 300 epochs of ImageNet as BiFormer's: rates by the epoch, warm-up of 5, no clipping, and a mean of the weights, which
# the authors keep but do not test.
_base_ = 'no_decay.py'
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=True, begin=0, end=6),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, end=300),
]
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg={{_base_.no_decay_of_vectors}})
auto_scale_lr = dict(enable=False, base_batch_size=1024)
custom_hooks = [dict(type='EMAHook', momentum=4e-5, evaluate_on_ema=False, evaluate_on_origin=True)]
