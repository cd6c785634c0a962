# No weight decay for norms and position bias tables.
no_decay = dict(norm_decay_mult=0., custom_keys=dict(
    rpe_table=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.)))
