# ImageNet at 224 pixels, 128 images a process: random crops, flips, RandAugment (timm's rand-m9-mstd0.5-inc1), random
# erasing; tested on the middle of an image whose shorter side is 256.
bgr_mean, bgr_std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
data_preprocessor = dict(num_classes=1000, mean=bgr_mean[::-1], std=bgr_std[::-1], to_rgb=True)
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
random_crop = dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
augment = dict(
    type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10, magnitude_level=9,
    magnitude_std=0.5, hparams=dict(pad_val=[round(value) for value in bgr_mean], interpolation='bicubic'))
erase = dict(type='RandomErasing', erase_prob=0.25, mode='rand', min_area_ratio=0.02, max_area_ratio=1 / 3,
             fill_color=bgr_mean, fill_std=bgr_std)
train_pipeline = [load, random_crop, flip, augment, erase, pack]
test_pipeline = [
    load,
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    pack,
]
imagenet = dict(type='ImageNet', data_root='data/imagenet')
train_dataloader = dict(
    batch_size=128, num_workers=8, persistent_workers=True, pin_memory=True, drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(imagenet, split='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128, num_workers=8, persistent_workers=True, pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(imagenet, split='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
