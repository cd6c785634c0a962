# The whole learning rate from the first step on.
_base_ = '../examples/retinanet_dat_bccd.py'
param_scheduler = [dict(type='CosineAnnealingLR', begin=0, end=24, eta_min_ratio=0.01, by_epoch=True,
                        convert_to_iter_based=True)]
