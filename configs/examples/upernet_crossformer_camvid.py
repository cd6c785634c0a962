_base_ = ['upernet_biformer_camvid.py', '../_base_/models/small_crossformer.py']
model = dict(backbone={{_base_.small_crossformer}})
