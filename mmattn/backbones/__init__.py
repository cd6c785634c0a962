"""Pyramids of attention stages, registered as `mmattn.…`."""
from mmattn import registry  # noqa: F401  first, for its one clear error where MMEngine is missing
from mmattn.backbones.attention_pyramid import AttentionPyramid
from mmattn.backbones.biformer import BiFormer
from mmattn.backbones.crossformer import CrossFormer, CrossFormerPlusPlus
from mmattn.backbones.dat import DAT, DATPlusPlus
from mmattn.backbones.debiformer import DeBiFormer

__all__ = ['DAT', 'AttentionPyramid', 'BiFormer', 'CrossFormer', 'CrossFormerPlusPlus', 'DATPlusPlus', 'DeBiFormer']
