"""Parameter names of the authors' BiFormer, channels last and channels first -> ours."""
from torch import Tensor

from mmattn.checkpoint.rules import Rules, apply_inside, apply_rules, with_matrices

# (authors' pattern, our name); the first that matches the whole name wins. An empty name drops the entry.
RULES: Rules = [
    (r'norm\.(\w+)', r'neck.norm.\1'),
    (r'head\.(\w+)', r'head.fc.\1'),
    (r'downsample_layers\.0\.(\d\.\w+)', r'stem.\1'),
    (r'downsample_layers\.(\d)\.(\d\.\w+)', lambda m: f'downsamples.{int(m[1]) - 1}.{m[2]}'),
    (r'extra_norms\.(\d\.\w+)', r'norms.\1'),
    (r'stages\.(\d)\.(?:blocks\.)?(\d+)\.(.+)', lambda m: apply_inside(f'stages.{m[1]}.blocks.{m[2]}.', BLOCK, m[3])),
]
BLOCK: Rules = [
    (r'(?:pos_embed|norm[12])\.\w+', r'\g<0>'),
    (r'gamma([12])', r'scale\1.gamma'),
    (r'attn\.([123])\.(\w+)', lambda m: f'attn.{int(m[1]) - 1}.{m[2]}'),
    (r'attn\.(.+)', lambda m: apply_inside('attn.', ATTENTION, m[1])),
    (r'mlp\.0\.(\w+)', r'mlp.fc1.\1'),
    (r'mlp\.1\.dwconv\.(\w+)', r'mlp.conv.\1'),
    (r'mlp\.[23]\.(\w+)', r'mlp.fc2.\1'),
]
ATTENTION: Rules = [
    (r'qkv\.qkv\.(\w+)|qkv_linear\.(\w+)', lambda m: f'qkv.{m[1] or m[2]}'),
    (r'(?:wo|output_linear)\.(\w+)', r'proj.\1'),
    (r'router\.emb\.(\w+)', r'router.\1'),
    (r'(?:qkv|proj|lepe)\.\w+', r'\g<0>'),
]


def translate(key: str, value: Tensor) -> tuple[str | None, Tensor]:
    """Our name and layout for a parameter of an authors' backbone.

    Returns:
        the name is None where it is unknown. A 1 x 1 convolution becomes the matrix of a linear map.
    """
    return with_matrices(apply_rules(RULES, key.replace('_checkpoint_wrapped_module.', '')), value)


def translate_attention(key: str, value: Tensor) -> tuple[str | None, Tensor]:
    """The same for one of the authors' attention layers alone."""
    return with_matrices(apply_rules(ATTENTION, key), value)
