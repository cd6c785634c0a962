"""Parameter names of the authors' DAT (CVPR 2022) -> ours."""
import re

# (authors' pattern, our name); the first that matches the whole name wins. An empty name drops the entry.
RULES = [
    (r'patch_proj\.0\.(\w+)', r'stem.0.\1'),
    (r'patch_proj\.1\.norm\.(\w+)', r'stem.1.\1'),
    (r'down_projs\.(\d)\.0\.(\w+)', r'downsamples.\1.0.\2'),
    (r'down_projs\.(\d)\.1\.norm\.(\w+)', r'downsamples.\1.1.\2'),
    (r'norms\.(\d)\.norm\.(\w+)', r'norms.\1.\2'),
    (r'stages\.(\d)\.layer_norms\.(\d+)\.norm\.(\w+)',
     lambda m: f'stages.{m[1]}.blocks.{int(m[2]) // 2}.norm{int(m[2]) % 2 + 1}.{m[3]}'),
    (r'stages\.(\d)\.mlps\.(\d+)\.chunk\.linear([12])\.(\w+)', r'stages.\1.blocks.\2.mlp.fc\3.\4'),
    (r'stages\.(\d)\.attns\.(\d+)\.(relative_position_index|attn_mask)', ''),
    (r'stages\.(\d)\.attns\.(\d+)\.conv_offset\.([03])\.(\w+)', r'stages.\1.blocks.\2.attn.offset.\3.\4'),
    (r'stages\.(\d)\.attns\.(\d+)\.conv_offset\.1\.norm\.(\w+)', r'stages.\1.blocks.\2.attn.offset.1.\3'),
    (r'stages\.(\d)\.attns\.(\d+)\.(.+)', r'stages.\1.blocks.\2.attn.\3'),
    (r'cls_(norm\.norm|head)\.\w+', ''),
]


def rename(key):
    """Our name for an authors' parameter.

    Returns:
        str | None: '' where the entry is derived or belongs to the classifier, None where the name is unknown.
    """
    for pattern, name in RULES:
        match = re.fullmatch(pattern, key)
        if match:
            return name(match) if callable(name) else match.expand(name)
    return None
