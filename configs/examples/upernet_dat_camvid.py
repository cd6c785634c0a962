_base_ = ['upernet_biformer_camvid.py', '../_base_/models/small_dat.py']
model = dict(backbone={{_base_.small_dat_320}})
