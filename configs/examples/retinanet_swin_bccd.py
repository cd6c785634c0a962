_base_ = ['retinanet_biformer_bccd.py', '../_base_/models/small_swin.py']
model = dict(backbone={{_base_.small_swin_but_first}})
