"""Parameter names of the authors' DAT (CVPR 2022) and DAT++ -> ours."""
import re

from torch import Tensor

from mmattn.checkpoint.rules import Rules, apply_inside, apply_rules

# (authors' pattern, our name); the first that matches the whole name wins. An empty name drops the entry.
ATTENTION: Rules = [
    (r'relative_position_index|attn_mask', ''),
    (r'conv_offset\.([03])\.(\w+)', r'offset.\1.\2'),
    (r'conv_offset\.1\.norm\.(\w+)', r'offset.1.\1'),
    (r'rpe_table\.(weight|bias)', r'rpe_conv.\1'),
    (r'rpe_table\.([02])\.(\w+)', r'rpe_mlp.\1.\2'),
    (r'proj_ds\.0\.(\w+)', r'reduction.0.\1'),
    (r'proj_ds\.1\.norm\.(\w+)', r'reduction.1.\1'),
    (r'(proj_\w+|qkv|q|kv|proj)\.(weight|bias)', r'\1.\2'),
    (r'rpe_table|relative_position_bias_table|rpb|reference', r'\g<0>'),
]
MLP: Rules = [
    (r'chunk\.linear([12])\.(\w+)', r'fc\1.\2'),
    (r'linear([12])(?:\.0)?\.(\w+)', r'fc\1.\2'),
    (r'dwc\.(\w+)', r'conv.\1'),
]
BACKBONE: Rules = [
    (r'patch_proj\.([03])\.(\w+)', r'stem.\1.\2'),
    (r'patch_proj\.([14])\.norm\.(\w+)', r'stem.\1.\2'),
    (r'down_projs\.(\d)\.0\.(\w+)', r'downsamples.\1.0.\2'),
    (r'down_projs\.(\d)\.1\.norm\.(\w+)', r'downsamples.\1.1.\2'),
    (r'norms\.(\d)\.norm\.(\w+)', r'norms.\1.\2'),
    (r'cls_norm\.norm\.(\w+)', r'neck.norm.\1'),
    (r'cls_head\.(\w+)', r'head.fc.\1'),
]
BLOCK: Rules = [
    (r'layer_norms\.(\d+)\.norm\.(\w+)', lambda m: f'{int(m[1]) // 2}.norm{int(m[1]) % 2 + 1}.{m[2]}'),
    (r'layer_scales\.(\d+)\.(?:gamma|weight)', lambda m: f'{int(m[1]) // 2}.scale{int(m[1]) % 2 + 1}.gamma'),
    (r'local_perception_units\.(\d+)\.(\w+)', r'\1.lpu.\2'),
    (r'ln_cnvnxt\.(\d+)\.norm\.(\w+)', r'\1.norm.\2'),
    (r'attns\.(\d+)\.(weight|bias)', r'\1.conv.\2'),
    (r'attns\.(\d+)\.(.+)', lambda m: apply_inside(f'{m[1]}.attn.', ATTENTION, m[2])),
    (r'mlps\.(\d+)\.(.+)', lambda m: apply_inside(f'{m[1]}.mlp.', MLP, m[2])),
]


def translate(key: str, value: Tensor) -> tuple[str | None, Tensor]:
    """Our name and layout for a parameter of an authors' backbone.

    Returns:
        the name is '' where the entry is derived, None where it is unknown. A 1 x 1 convolution becomes the matrix of a
        linear map.
    """
    name = rename(key)
    return name, value.flatten(1) if name and '.mlp.fc' in name and value.ndim == 4 else value


def translate_attention(key: str, value: Tensor) -> tuple[str | None, Tensor]:
    """The same for one of the authors' attention layers alone."""
    return apply_rules(ATTENTION, key), value


def rename(key: str) -> str | None:
    """Our name for a parameter of an authors' backbone, '' or None as in `translate`."""
    match = re.fullmatch(r'stages\.(\d)\.(.+)', key)
    return apply_inside(f'stages.{match[1]}.blocks.', BLOCK, match[2]) if match else apply_rules(BACKBONE, key)
