# RetinaNet with a small BiFormer, trained from scratch on BCCD: minutes on two CPU cores.
_base_ = [
    '../_base_/mmattn.py', '../_base_/models/small_retinanet.py', '../_base_/models/small_biformer.py',
    '../_base_/datasets/bccd.py', '../_base_/schedules/adamw_24e_bccd.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(backbone={{_base_.small_biformer_but_first}}, bbox_head=dict(num_classes=3))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
