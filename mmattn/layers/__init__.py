"""Modules that own weights, (B, C, H, W) in and out; each works alone in any network, with torch and einops only.

Arguments and maps that do not fit raise an ArgumentError, a ValueError, that names them. Attention layers say what they
attend to: `layer.attended(x, pixels)`, see `mmattn.layers.attended`.
"""
from mmattn.layers.agents import DeformableBiLevelRoutingAttention
from mmattn.layers.attended import Attended, Attends, Keys
from mmattn.layers.attention import Attention
from mmattn.layers.block import AttentionBlock
from mmattn.layers.cross_scale import CrossScaleEmbedding
from mmattn.layers.deformable import DeformableAttention
from mmattn.layers.deformable_detr import DeformableDETRAttention
from mmattn.layers.drop import DropPath
from mmattn.layers.grouped import LongDistanceAttention, ShortDistanceAttention
from mmattn.layers.mlp import MLP, DepthwiseMLP
from mmattn.layers.neighborhood import NeighborhoodAttention
from mmattn.layers.norm import LayerNorm2d
from mmattn.layers.position import ConditionalPositionEncoding, DynamicPositionBias
from mmattn.layers.reduction import SpatialReductionAttention
from mmattn.layers.routing import BiLevelRoutingAttention
from mmattn.layers.scale import LayerScale, layer_scale
from mmattn.layers.window import LocalAttention, ShiftedWindowAttention

__all__ = ['MLP', 'Attended', 'Attends', 'Attention', 'AttentionBlock', 'BiLevelRoutingAttention',
           'ConditionalPositionEncoding', 'CrossScaleEmbedding', 'DeformableAttention',
           'DeformableBiLevelRoutingAttention', 'DeformableDETRAttention', 'DepthwiseMLP', 'DropPath',
           'DynamicPositionBias', 'Keys', 'LayerNorm2d', 'LayerScale', 'LocalAttention', 'LongDistanceAttention',
           'NeighborhoodAttention', 'ShiftedWindowAttention', 'ShortDistanceAttention', 'SpatialReductionAttention',
           'layer_scale']
