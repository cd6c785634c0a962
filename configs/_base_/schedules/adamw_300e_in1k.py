# 300 epochs of ImageNet, AdamW, linear warm-up of 20 epochs, cosine decay, gradients clipped at 5, float16, 1024 images
# a step. The cosine starts with the warm-up, as timm's does.
_base_ = 'no_decay.py'
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, end=300, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg={{_base_.no_decay_of_vectors}}, clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=1024)
