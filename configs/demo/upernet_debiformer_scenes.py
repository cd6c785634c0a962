# UperNet with a small DeBiFormer, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = ['upernet_dat_scenes.py', '../_base_/models/small_debiformer.py']
model = dict(backbone={{_base_.small_debiformer}})
