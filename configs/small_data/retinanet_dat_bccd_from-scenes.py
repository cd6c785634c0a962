# The backbone starts from that of another detector, which `make demo` trains on generated scenes.
_base_ = '../examples/retinanet_dat_bccd.py'
model = dict(backbone=dict(init_cfg=dict(
    type='Pretrained', checkpoint='work_dirs/mask-rcnn_dat_scenes/epoch_5.pth', prefix='backbone.')))
