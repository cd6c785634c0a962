# The backbone starts from that of another segmentor, which `make demo-seg` trains on generated scenes.
_base_ = '../examples/upernet_dat_camvid.py'
model = dict(backbone=dict(init_cfg=dict(
    type='Pretrained', checkpoint='work_dirs/upernet_dat_scenes/iter_600.pth', prefix='backbone.')))
