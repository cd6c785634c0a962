# 40 000 iterations of 32 images, for what papers call 80 000 of 16: twice the learning rate, the rest alike.
_base_ = 'adamw_80k_ade20k.py'
train_cfg = dict(max_iters=40000, val_interval=4000)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=40001)]
optim_wrapper = dict(optimizer=dict(lr=2e-4))
default_hooks = dict(checkpoint=dict(interval=4000))
auto_scale_lr = dict(base_batch_size=32)
