# 24 epochs of BCCD from scratch, AdamW, linear warm-up of 100 iterations, cosine decay, 8 images a step.
_base_ = 'no_decay.py'
max_epochs = 24
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', begin=0, end=max_epochs, eta_min_ratio=0.01, by_epoch=True,
         convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg={{_base_.no_decay}}, clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=8)
