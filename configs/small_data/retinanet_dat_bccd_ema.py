# Tested with the mean of the weights over about the last hundred steps.
_base_ = '../examples/retinanet_dat_bccd.py'
custom_hooks = [dict(type='EMAHook', momentum=0.01, update_buffers=True)]
