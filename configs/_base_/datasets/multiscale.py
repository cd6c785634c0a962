# What the detectors trained multi-scale see: a shorter side of 480 to 800 pixels, half of the time of a random crop
# (the policy of DETR).
_resize = dict(type='RandomChoiceResize', scales=[(1333, side) for side in range(480, 801, 32)], keep_ratio=True)
multiscale = dict(type='RandomChoice', transforms=[
    [_resize],
    [
        dict(type='RandomChoiceResize', scales=[(1333, 400), (1333, 500), (1333, 600)], keep_ratio=True),
        dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
        _resize,
    ],
])
del _resize
