"""Modules that own weights, (B, C, H, W) in and out; each works alone in any network, with torch and einops only."""
from mmattn.layers.deformable import DeformableAttention
from mmattn.layers.drop import DropPath
from mmattn.layers.mlp import MLP
from mmattn.layers.norm import LayerNorm2d
from mmattn.layers.window import LocalAttention, ShiftedWindowAttention

__all__ = ['MLP', 'DeformableAttention', 'DropPath', 'LayerNorm2d', 'LocalAttention', 'ShiftedWindowAttention']
