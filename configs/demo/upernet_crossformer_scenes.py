# UperNet with a small CrossFormer, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = ['upernet_dat_scenes.py', '../_base_/models/small_crossformer.py']
model = dict(backbone={{_base_.small_crossformer}})
