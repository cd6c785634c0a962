_base_ = ['upernet_biformer_camvid.py', '../_base_/models/small_swin.py']
model = dict(backbone={{_base_.small_swin}})
