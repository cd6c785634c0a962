"""What a long training needs of MMEngine: exact resumption, whole files, losses of all processes, finite numbers."""
from mmattn.engine.checkpointing import CheckpointHook
from mmattn.engine.layer_decay import LayerDecayOptimizerConstructor
from mmattn.engine.losses import AverageLossesHook
from mmattn.engine.non_finite import NonFiniteHook
from mmattn.engine.precision import AmpOptimWrapper, BFloat16OptimWrapper
from mmattn.engine.seeding import NumberedSampler, SeedHook

__all__ = ['AmpOptimWrapper', 'AverageLossesHook', 'BFloat16OptimWrapper', 'CheckpointHook',
           'LayerDecayOptimizerConstructor', 'NonFiniteHook', 'NumberedSampler', 'SeedHook']
