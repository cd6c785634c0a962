"""The authors' names and layout of parameters, from ours: the inverse of `mmattn.checkpoint`, for tests."""
import re

from mmattn.checkpoint.rules import apply_rules

RULES = dict(
    dat=[
        (r'stem\.([03])\.(\w+)', r'patch_proj.\1.\2'),
        (r'stem\.([14])\.(\w+)', r'patch_proj.\1.norm.\2'),
        (r'downsamples\.(\d)\.0\.(\w+)', r'down_projs.\1.0.\2'),
        (r'downsamples\.(\d)\.1\.(\w+)', r'down_projs.\1.1.norm.\2'),
        (r'norms\.(\d)\.(\w+)', r'norms.\1.norm.\2'),
        (r'(stages\.\d)\.blocks\.(\d+)\.norm([12])\.(\w+)',
         lambda m: f'{m[1]}.layer_norms.{2 * int(m[2]) + int(m[3]) - 1}.norm.{m[4]}'),
        (r'(stages\.\d)\.blocks\.(\d+)\.lpu\.(\w+)', r'\1.local_perception_units.\2.\3'),
        (r'(stages\.\d)\.blocks\.(\d+)\.mlp\.conv\.(\w+)', r'\1.mlps.\2.dwc.\3'),
        (r'(stages\.\d)\.blocks\.(\d+)\.attn\.offset\.1\.(\w+)', r'\1.attns.\2.conv_offset.1.norm.\3'),
        (r'(stages\.\d)\.blocks\.(\d+)\.attn\.offset\.(\d\.\w+)', r'\1.attns.\2.conv_offset.\3'),
        (r'(stages\.\d)\.blocks\.(\d+)\.attn\.(.+)', r'\1.attns.\2.\3'),
    ],
    crossformer=[
        (r'stem\.0\.convs\.(.+)', r'patch_embed.projs.\1'),
        (r'stem\.1\.(\w+)', r'patch_embed.norm.\1'),
        (r'downsamples\.(\d)\.0\.(\w+)', r'layers.\1.downsample.norm.\2'),
        (r'downsamples\.(\d)\.1\.convs\.(.+)', r'layers.\1.downsample.reductions.\2'),
        (r'stages\.(\d\.blocks\.\d+\.attn)\.position_bias\.net\.0\.(\w+)', r'layers.\1.pos.pos_proj.\2'),
        (r'stages\.(\d\.blocks\.\d+\.attn)\.position_bias\.net\.(\d)\.(\w+)',
         lambda m: f'layers.{m[1]}.pos.pos{(int(m[2]) + 2) // 3}.{(int(m[2]) + 2) % 3}.{m[3]}'),
        (r'stages\.(\d\.blocks\.\d+)\.cooling\.0\.(\w+)', r'layers.\1.ex_conv.\2'),
        (r'stages\.(\d\.blocks\.\d+)\.cooling\.1\.(\w+)', r'layers.\1.ex_ln.\2'),
        (r'stages\.(\d\.blocks\..+)', r'layers.\1'),
    ],
    biformer=[
        (r'stem\.(.+)', r'downsample_layers.0.\1'),
        (r'downsamples\.(\d)\.(.+)', lambda m: f'downsample_layers.{int(m[1]) + 1}.{m[2]}'),
        (r'norms\.(.+)', r'extra_norms.\1'),
        (r'(stages\.[012])\.blocks\.(\d+\.attn)\.qkv\.(\w+)', r'\1.\2.qkv.qkv.\3'),
        (r'(stages\.[012])\.blocks\.(\d+\.attn)\.proj\.(\w+)', r'\1.\2.wo.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.mlp)\.fc1\.(\w+)', r'\1.\2.0.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.mlp)\.fc2\.(\w+)', r'\1.\2.3.\3'),
        (r'(stages\.\d)\.blocks\.(.+)', r'\1.\2'),
    ],
    debiformer=[
        (r'stem\.(.+)', r'downsample_layers.0.\1'),
        (r'downsamples\.(\d)\.(.+)', lambda m: f'downsample_layers.{int(m[1]) + 1}.{m[2]}'),
        (r'norms\.(\d)\.(\w+)', r'extra_norms.\1.ln.\2'),
        (r'(stages\.[012])\.blocks\.(\d+\.attn1)\.qkv\.(\w+)', r'\1.\2.qkv.qkv.\3'),
        (r'(stages\.[012])\.blocks\.(\d+\.attn1)\.proj\.(\w+)', r'\1.\2.wo.\3'),
        (r'(stages\.[012])\.blocks\.(\d+\.attn1\.lepe\.\w+)', r'\1.\2'),
        (r'(stages\.\d)\.blocks\.(\d+\.(?:attn\d\.)?mlp\d?)\.fc([12])\.(\w+)', r'\1.\2.linear\3.0.\4'),
        (r'(stages\.\d)\.blocks\.(\d+\.(?:attn\d\.)?mlp\d?)\.conv\.(\w+)', r'\1.\2.dwc.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.attn\d)\.qkv\.(\w+)', r'\1.\2.qkv_conv.qkv.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.attn\d)\.lepe\.(\w+)', r'\1.\2.lepe1.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.attn\d)\.offset\.1\.(\w+)', r'\1.\2.conv_offset_q.1.norm.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.attn\d)\.offset\.(\d\.\w+)', r'\1.\2.conv_offset_q.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.attn\d)\.proj_agents\.(\w+)', r'\1.\2.unifyheads1.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.attn\d)\.norm1\.(\w+)', r'\1.\2.norm2.\3'),
        (r'(stages\.\d)\.blocks\.(\d+\.attn\d)\.norm2\.(\w+)', r'\1.\2.norm.\3'),
        (r'(stages\.\d)\.blocks\.(.+)', r'\1.\2'),
    ])


def name_of(ours, family, convolutions=True):
    """The authors' name of a backbone's parameter.

    Args:
        ours (str): without 'backbone.'.
        family (str): 'dat', 'crossformer', 'biformer' or 'debiformer'.
        convolutions (bool): MLPs of DAT++, whose linear maps are 1 x 1 convolutions; DAT's are not.
    """
    if family == 'dat':
        linear = r'\1.mlps.\2.linear\3.0.\4' if convolutions else r'\1.mlps.\2.chunk.linear\3.\4'
        ours = re.sub(r'(stages\.\d)\.blocks\.(\d+)\.mlp\.fc([12])\.(\w+)', linear, ours)
        if '.mlps.' in ours:
            return ours
    return apply_rules(RULES[family], ours)


# Their weights of linear maps that are 1 x 1 convolutions: of DAT++'s MLPs, of DeBiFormer's agents.
CONVOLUTIONS_OF_LINEAR_MAPS = re.compile(
    r'(linear[12]\.0|attn\d\.(qkv_conv\.qkv|proj_[qkv]|proj_out|unifyheads1))\.weight')


def layout(model, family, convolutions=True):
    """Names and shapes of a detector or segmentor of ours in an authors' file, with our names.

    Returns:
        dict[str, tuple[str, torch.Size]]: by the authors' name, ours and the shape there.
    """
    state = {}
    for ours, value in model.state_dict().items():
        theirs, shape = ours, value.shape
        if ours.startswith('backbone.'):
            theirs = 'backbone.' + name_of(ours.removeprefix('backbone.'), family, convolutions)
            if CONVOLUTIONS_OF_LINEAR_MAPS.search(theirs):
                shape = (*shape, 1, 1)
        state[theirs] = ours, shape
    return state


CLASSIFIERS = dict(dat=('cls_norm.norm', 'cls_head'), crossformer=('norm', 'head'), biformer=('norm', 'head'),
                   debiformer=('norm', 'head'))


def classifier(model, family, convolutions=True):
    """The parameters of a classifier of ours as they are in an authors' file.

    Returns:
        dict[str, torch.Tensor]
    """
    norm, head = CLASSIFIERS[family]
    state = {}
    for ours, value in model.state_dict().items():
        theirs = ours.replace('neck.norm', norm).replace('head.fc', head)
        if ours.startswith('backbone.'):
            theirs = name_of(ours.removeprefix('backbone.'), family, convolutions)
            if CONVOLUTIONS_OF_LINEAR_MAPS.search(theirs):
                value = value[..., None, None]
        state[theirs] = value
    return state
