# RetinaNet with a small DeBiFormer, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/small_retinanet.py', '../_base_/models/small_debiformer.py',
    '../_base_/datasets/scenes_detection.py', '../_base_/schedules/adamw_5e_scenes.py',
    'mmdet::_base_/default_runtime.py'
]
model = dict(backbone={{_base_.small_debiformer_but_first}}, bbox_head=dict(num_classes=5))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
