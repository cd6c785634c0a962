# BCCD: 364 microscope images of blood cells (640 x 480) at half their size, boxes in VOC XML, 8 images a step.
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 40, 60), (110, 60, 220), (0, 140, 90)])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),    # cells have no upright
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),      # boxes as they are in the image, for pictures beside predictions
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
                                          'instances')),
]
bccd = dict(type='XMLDataset', data_root='data/bccd/', data_prefix=dict(sub_data_root=''), metainfo=metainfo)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(**bccd, ann_file='ImageSets/Main/train.txt', pipeline=train_pipeline,
                 filter_cfg=dict(filter_empty_gt=True, min_size=1, bbox_min_size=1)))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**bccd, ann_file='ImageSets/Main/val.txt', test_mode=True, pipeline=test_pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='ImageSets/Main/test.txt'))
# Without an annotation file the metric takes the boxes from the samples themselves.
val_evaluator = dict(type='CocoMetric', metric='bbox', classwise=True)
test_evaluator = val_evaluator
