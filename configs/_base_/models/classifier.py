# A backbone's last map, normalised, averaged and classified. Trained on mixed images with smooth labels.
model = dict(
    type='ImageClassifier',
    backbone=dict(out_indices=(3,), out_norm=False),
    neck=dict(type='mmattn.NormalizedPooling'),
    head=dict(
        type='LinearClsHead', num_classes=1000, init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
