# ADE20K, 2 images a process; test-time augmentation by six scales of 2048 x 512 and a flip.
_base_ = 'mmseg::_base_/datasets/ade20k.py'
train_dataloader = dict(batch_size=2)
tta_scales = [dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
              for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
tta_flips = [dict(type='RandomFlip', prob=probability, direction='horizontal') for probability in (0., 1.)]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        tta_scales,
        tta_flips,
        [dict(type='LoadAnnotations', reduce_zero_label=True)],
        [dict(type='PackSegInputs')],
    ])
]
