# RetinaNet with a small DAT, trained for one epoch on generated scenes.
_base_ = ['retinanet_biformer_scenes.py', '../_base_/models/small_dat.py']
model = dict(backbone={{_base_.small_dat_but_first}})
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', begin=0, end=1, eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
