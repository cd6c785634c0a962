"""Parameter names of the authors' CrossFormer and CrossFormer++ -> ours."""
from torch import Tensor

from mmattn.checkpoint.rules import Rules, apply_inside, apply_rules

# (authors' pattern, our name); the first that matches the whole name wins. An empty name drops the entry.
RULES: Rules = [
    (r'.+\.(?:attn_mask|biases|relative_position_index)', ''),
    (r'norm\.(\w+)', r'neck.norm.\1'),
    (r'head\.(\w+)', r'head.fc.\1'),
    (r'patch_embed\.projs\.(\d\.\w+)', r'stem.0.convs.\1'),
    (r'patch_embed\.norm\.(\w+)', r'stem.1.\1'),
    (r'layers\.(\d)\.downsample\.norm\.(\w+)', r'downsamples.\1.0.\2'),
    (r'layers\.(\d)\.downsample\.reductions\.(\d\.\w+)', r'downsamples.\1.1.convs.\2'),
    (r'layers\.(\d)\.blocks\.(\d+)\.(.+)', lambda m: apply_inside(f'stages.{m[1]}.blocks.{m[2]}.', BLOCK, m[3])),
]
BLOCK: Rules = [
    (r'norm[12]\.\w+|attn\.(?:qkv|proj)\.\w+|mlp\.fc[12]\.\w+', r'\g<0>'),
    (r'attn\.pos\.pos_proj\.(\w+)', r'attn.position_bias.net.0.\1'),
    (r'attn\.pos\.pos([123])\.([02])\.(\w+)',
     lambda m: f'attn.position_bias.net.{3 * int(m[1]) - 2 + int(m[2])}.{m[3]}'),
    (r'cpe\.(\w+)', r'position.conv.\1'),
    (r'norm_cpe\.(\w+)', r'position.norm.\1'),
    (r'ex_conv\.(\w+)', r'cooling.0.\1'),
    (r'ex_ln\.(\w+)', r'cooling.1.\1'),
]


def translate(key: str, value: Tensor) -> tuple[str | None, Tensor]:
    """Our name for a parameter of an authors' backbone, and its value.

    Returns:
        the name is '' where the entry is computed, None where it is unknown.
    """
    return apply_rules(RULES, key), value
