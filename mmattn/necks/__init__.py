"""The attention layers in other networks: on the levels of a pyramid, or inside a backbone's blocks; what a
classifier has between backbone and head."""
from mmattn import registry  # noqa: F401  first, for its one clear error where MMEngine is missing
from mmattn.necks.attention import AttentionNeck, AttentionPlugin
from mmattn.necks.cross_scale import CrossScaleNeck
from mmattn.necks.pooling import NormalizedPooling

__all__ = ['AttentionNeck', 'AttentionPlugin', 'CrossScaleNeck', 'NormalizedPooling']
