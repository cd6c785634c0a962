_base_ = ['retinanet_biformer_bccd.py', '../_base_/models/small_dat.py']
model = dict(backbone={{_base_.small_dat_320_but_first}})
