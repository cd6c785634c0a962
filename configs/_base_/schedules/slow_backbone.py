# What heads of the DETR kind want of an optimizer: a tenth of the learning rate in the backbone; no weight decay for
# norms and position bias tables, there and elsewhere. In place of what a base says of single parameters.
tables = dict(rpe_table=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.))
slow_backbone = dict(constructor='mmattn.LayerDecayOptimizerConstructor', paramwise_cfg=dict(
    _delete_=True, backbone_lr_mult=0.1, norm_decay_mult=0., custom_keys=tables))
# The same, and Deformable DETR moves its points a tenth as fast.
slow_backbone_and_points = dict(slow_backbone, paramwise_cfg=dict(slow_backbone['paramwise_cfg'], custom_keys=dict(
    tables, sampling_offsets=dict(lr_mult=0.1), reference_points=dict(lr_mult=0.1))))
# The same, and the queries of Mask2Former do not decay.
slow_backbone_still_queries = dict(slow_backbone, paramwise_cfg=dict(slow_backbone['paramwise_cfg'], custom_keys=dict(
    tables, query_embed=dict(decay_mult=0.), query_feat=dict(decay_mult=0.), level_embed=dict(decay_mult=0.))))
