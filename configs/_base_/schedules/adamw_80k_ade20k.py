# 80 000 iterations, AdamW, polynomial decay without warm-up, 16 images a step.
_base_ = 'adamw_160k_ade20k.py'
train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=80001)]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
default_hooks = dict(checkpoint=dict(interval=8000))
