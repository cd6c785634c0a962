"""Parameter names of the authors' DeBiFormer -> ours."""
from torch import Tensor

from mmattn.checkpoint.rules import Rules, apply_inside, apply_rules, with_matrices

# (authors' pattern, our name); the first that matches the whole name wins.
RULES: Rules = [
    (r'norm\.(\w+)', r'neck.norm.\1'),
    (r'head\.(\w+)', r'head.fc.\1'),
    (r'downsample_layers\.0\.(\d\.\w+)', r'stem.\1'),
    (r'downsample_layers\.(\d)\.(\d\.\w+)', lambda m: f'downsamples.{int(m[1]) - 1}.{m[2]}'),
    (r'extra_norms\.(\d)\.(?:ln\.)?(\w+)', r'norms.\1.\2'),
    (r'stages\.(\d)\.(\d+)\.(.+)', lambda m: apply_inside(f'stages.{m[1]}.blocks.{m[2]}.', BLOCK, m[3])),
]
BLOCK: Rules = [
    (r'(?:pos_embed[12]|norm[1-4])\.\w+', r'\g<0>'),
    (r'(mlp[12]\.)(.+)', lambda m: apply_inside(m[1], MLP, m[2])),
    (r'(attn[12]\.)(.+)', lambda m: apply_inside(m[1], ATTENTION, m[2])),
]
MLP: Rules = [
    (r'linear([12])\.0\.(\w+)', r'fc\1.\2'),
    (r'dwc\.(\w+)', r'conv.\1'),
]
ATTENTION: Rules = [        # of both kinds
    (r'qkv(?:_conv)?\.qkv\.(\w+)', r'qkv.\1'),
    (r'wo\.(\w+)', r'proj.\1'),
    (r'lepe1?\.(\w+)', r'lepe.\1'),
    (r'conv_offset_q\.([03])\.(\w+)', r'offset.\1.\2'),
    (r'conv_offset_q\.1\.norm\.(\w+)', r'offset.1.\1'),
    (r'unifyheads1\.(\w+)', r'proj_agents.\1'),
    (r'norm2\.(\w+)', r'norm1.\1'),
    (r'norm\.(\w+)', r'norm2.\1'),
    (r'(mlp\.)(.+)', lambda m: apply_inside(m[1], MLP, m[2])),
    (r'proj_\w+\.\w+|rpe_table', r'\g<0>'),
]


def translate(key: str, value: Tensor) -> tuple[str | None, Tensor]:
    """Our name and layout for a parameter of an authors' backbone.

    Returns:
        the name is None where it is unknown. A 1 x 1 convolution becomes the matrix of a linear map.
    """
    return with_matrices(apply_rules(RULES, key), value)


def translate_attention(key: str, value: Tensor) -> tuple[str | None, Tensor]:
    """The same for one of the authors' attention layers alone."""
    return with_matrices(apply_rules(ATTENTION, key), value)
