"""Modules that own weights, (B, C, H, W) in and out; each works alone in any network, with torch and einops only."""
from mmattn.layers.attention import Attention
from mmattn.layers.deformable import DeformableAttention
from mmattn.layers.deformable_detr import DeformableDETRAttention
from mmattn.layers.drop import DropPath
from mmattn.layers.mlp import MLP, DepthwiseMLP
from mmattn.layers.neighborhood import NeighborhoodAttention
from mmattn.layers.norm import LayerNorm2d
from mmattn.layers.reduction import SpatialReductionAttention
from mmattn.layers.routing import BiLevelRoutingAttention
from mmattn.layers.scale import LayerScale, layer_scale
from mmattn.layers.window import LocalAttention, ShiftedWindowAttention

__all__ = ['MLP', 'Attention', 'BiLevelRoutingAttention', 'DeformableAttention', 'DeformableDETRAttention',
           'DepthwiseMLP', 'DropPath', 'LayerNorm2d', 'LayerScale', 'LocalAttention', 'NeighborhoodAttention',
           'ShiftedWindowAttention', 'SpatialReductionAttention', 'layer_scale']
