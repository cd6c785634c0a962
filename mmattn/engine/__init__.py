"""What a long training needs of MMEngine: exact resumption, files that are whole, losses of all processes."""
from mmattn.engine.checkpoint import CheckpointHook
from mmattn.engine.losses import AverageLossesHook
from mmattn.engine.non_finite import NonFiniteHook
from mmattn.engine.repeat import NumberedSampler, SeedHook

__all__ = ['AverageLossesHook', 'CheckpointHook', 'NonFiniteHook', 'NumberedSampler', 'SeedHook']
