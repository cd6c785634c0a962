# Twice the learning rate.
_base_ = '../examples/retinanet_dat_bccd.py'
optim_wrapper = dict(optimizer=dict(lr=2e-3))
