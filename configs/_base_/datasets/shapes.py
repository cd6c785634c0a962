# Generated single shapes of 80 x 80 pixels, a folder for each class, 32 images a step.
metainfo = dict(classes=('cross', 'disk', 'square', 'star', 'triangle'))
data_preprocessor = dict(num_classes=5, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
shapes = dict(type='CustomDataset', data_root='data/shapes', metainfo=metainfo)
train_dataloader = dict(
    batch_size=32, num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(shapes, data_prefix='train', pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=80, crop_ratio_range=(0.5, 1.0)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]))
val_dataloader = dict(
    batch_size=32, num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(shapes, data_prefix='val', pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='PackInputs'),
    ]))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
