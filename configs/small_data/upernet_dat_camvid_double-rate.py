# Twice the learning rate.
_base_ = '../examples/upernet_dat_camvid.py'
optim_wrapper = dict(optimizer=dict(lr=1e-3))
