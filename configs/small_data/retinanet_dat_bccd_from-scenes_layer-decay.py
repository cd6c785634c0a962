# The same, and its layers learn the slower, the farther they are from the head.
_base_ = 'retinanet_dat_bccd_from-scenes.py'
optim_wrapper = dict(constructor='mmattn.LayerDecayOptimizerConstructor', paramwise_cfg=dict(decay_rate=0.8))
