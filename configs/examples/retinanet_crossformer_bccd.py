_base_ = ['retinanet_biformer_bccd.py', '../_base_/models/small_crossformer.py']
model = dict(backbone={{_base_.small_crossformer}})
