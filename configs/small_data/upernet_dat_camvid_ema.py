# Tested with the mean of the weights over about the last hundred steps.
_base_ = '../examples/upernet_dat_camvid.py'
custom_hooks = [dict(type='EMAHook', momentum=0.01, update_buffers=True)]
