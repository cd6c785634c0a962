# RetinaNet with a small CrossFormer, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = ['retinanet_biformer_scenes.py', '../_base_/models/small_crossformer.py']
model = dict(backbone={{_base_.small_crossformer}})
