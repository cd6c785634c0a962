"""Whatever the size, batch, dtype, memory format and arguments: finite outputs of the declared shapes and dtype, finite
gradients, or a ValueError that names the argument; nothing else."""
import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mmattn import backbones, layers, necks
from mmattn.layers.block import ATTENTIONS
from mmattn.layers.deformable import POSITION_BIASES
from mmattn.layers.sampling import KV_SAMPLINGS

pytestmark = [pytest.mark.filterwarnings('ignore:topk='), pytest.mark.filterwarnings('ignore:TF32')]

LAYOUTS = {
    'contiguous': lambda b, c, h, w: ((b, c, h, w), lambda t: t),
    'channels last': lambda b, c, h, w: ((b, h, w, c), lambda t: t.permute(0, 3, 1, 2)),
    'transposed': lambda b, c, h, w: ((b, c, w, h), lambda t: t.mT),
    'batch last': lambda b, c, h, w: ((c, h, w, b), lambda t: t.permute(3, 0, 1, 2)),
    'sliced': lambda b, c, h, w: ((b, c + 2, 2 * h, w + 3), lambda t: t[:, 1:-1, ::2, 2:-1]),
    'expanded batch': lambda b, c, h, w: ((1, c, h, w), lambda t: t.expand(b, -1, -1, -1)),
    'expanded channels': lambda b, c, h, w: ((b, 1, h, w), lambda t: t.expand(-1, c, -1, -1)),
    'expanded rows': lambda b, c, h, w: ((b, c, 1, w), lambda t: t.expand(-1, -1, h, -1)),
}
MISTAKES = {        # of an input, all to be refused
    'no batch': lambda x: x.sum(0),
    'five axes': lambda x: x[..., None],
    'one axis': lambda x: x.flatten(),
    'no axis': lambda x: x.sum(),
    'a channel more': lambda x: torch.cat([x, x[:, :1]], 1),
    'no channels': lambda x: x[:, :0],
    'no rows': lambda x: x[:, :, :0],
    'no columns': lambda x: x[..., :0],
    'whole numbers': lambda x: x.to(torch.uint8),
    'complex numbers': lambda x: x.to(torch.complex64),
    'another dtype': lambda x: x.to(torch.float32 if x.dtype == torch.float64 else torch.float64),
}
WRONG = st.one_of(
    st.integers(-3, 40), st.floats(-3, 40, width=16), st.sampled_from([float('nan'), float('inf'), -float('inf')]),
    st.sampled_from([None, '', 'x', True, False, (), [], (1,), (2, 0), (0, 2), [3.5], (2, 3), [[2]], {}, {'x': 1}]))


@dataclass
class Family:
    arguments: st.SearchStrategy
    make: Callable
    inputs: Callable        # arguments -> channels of each map
    outputs: Callable       # arguments, size -> shape (C, H, W) of each map
    longest: int = 70
    area: int = 1200
    listed: bool = False    # maps in a list


@dataclass
class Case:
    family: str
    arguments: dict
    wrong: str = None       # name of the argument that may be refused
    mistake: str = None     # of the input, that must be
    size: tuple = (9, 14)
    batch: int = 2
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype = None
    low: bool = False       # whether inputs have the dtype of autocast, as inside a network
    layout: str = 'contiguous'
    training: bool = True
    grad: bool = True
    seed: int = 0


def paths(arguments):
    """Where the arguments are: keys and indices that lead to each, those in dicts of arguments too."""
    items = arguments.items() if isinstance(arguments, dict) else enumerate(arguments)
    for key, value in items:
        if isinstance(key, str):
            yield (key,)
        if isinstance(value, dict) or (
                isinstance(value, list) and value and isinstance(value[0], (dict, list))):
            yield from ((key, *path) for path in paths(value))


@st.composite
def sizes(draw, longest, area):
    long = draw(st.integers(1, longest))
    size = long, draw(st.integers(1, min(longest, max(area // long, 1))))
    return draw(st.sampled_from([size, size[::-1]]))


@st.composite
def cases(draw, name):
    family = FAMILIES[name]
    arguments = draw(family.arguments)
    wrong = mistake = None
    fault = draw(st.sampled_from(['', '', 'argument', 'argument', 'input']))
    if fault == 'argument':
        arguments = copy.deepcopy(arguments)
        *path, wrong = draw(st.sampled_from(list(paths(arguments))))
        place = arguments
        for key in path:
            place = place[key]
        place[wrong] = draw(WRONG)
    elif fault == 'input':
        mistake = draw(st.sampled_from(list(MISTAKES)))
    low = torch.bfloat16, torch.float16
    dtype = draw(st.sampled_from([torch.float32, torch.float64, *low]))
    autocast = draw(st.sampled_from([None, *low])) if dtype == torch.float32 else None
    low = bool(autocast) and draw(st.booleans())
    return Case(name, arguments, wrong, mistake, draw(sizes(family.longest, family.area)),
                draw(st.sampled_from([1, 2, 0, 3])), dtype, autocast, low,
                draw(st.sampled_from(list(LAYOUTS))), draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 9)))


def check(case):
    """'finite' or 'refused'."""
    # oneDNN's strided convolutions of narrow maps in bfloat16 read memory that no one wrote, on CPUs with AMX
    # (pytorch/pytorch#169688).
    with torch.backends.mkldnn.flags(enabled=torch.bfloat16 not in (case.dtype, case.autocast)):
        return run(case)


def run(case):
    family = FAMILIES[case.family]
    torch.manual_seed(case.seed)
    leaves = []

    def map_of(channels, size):
        if not isinstance(channels, int) or channels < 1:
            channels = 4        # of what cannot be built
        shape, view = LAYOUTS[case.layout](case.batch, channels, *size)
        leaves.append(torch.randn(shape).to(case.autocast if case.low else case.dtype).requires_grad_(case.grad))
        return view(leaves[-1])

    def outputs():
        model = family.make(**case.arguments).to(case.dtype).train(case.training)
        maps = [map_of(channels, tuple(-(-side // 2 ** i) for side in case.size))
                for i, channels in enumerate(family.inputs(case.arguments))]
        if case.mistake:
            level = case.arguments.get('levels', [-1])[0]
            maps[level] = MISTAKES[case.mistake](maps[level])
        with torch.autocast('cpu', case.autocast, enabled=bool(case.autocast)), torch.set_grad_enabled(case.grad):
            outs = model(maps) if family.listed else model(*maps)
        return model, [outs] if isinstance(outs, torch.Tensor) else outs

    try:
        model, outs = outputs()
    except ValueError as error:
        message = str(error)
        single = case.training and case.batch == 1 and 'one value per channel' in message
        if not single and not names(case, message):
            raise AssertionError(f'the message does not name what is wrong: {message}') from error
        return 'refused'
    assert not case.mistake, 'not refused'
    wanted = family.outputs(case.arguments, case.size)
    assert [tuple(out.shape) for out in outs] == [(case.batch, *shape) for shape in wanted]
    for out in outs:
        assert out.dtype == case.dtype or out.dtype == case.autocast
        assert out.isfinite().all(), 'not finite'
    if case.grad:
        loss = sum((out.float() * torch.randn(out.shape)).sum() / max(out.numel(), 1) for out in outs)
        loss.backward()
        tensors = {**dict(enumerate(leaves)), **dict(model.named_parameters())}
        for name, t in tensors.items():
            assert not t.requires_grad or (t.grad is not None and t.grad.isfinite().all()), f'gradient of {name}'
    return 'finite'


# What a layer calls the argument that was passed on to it.
PASSED_ON = {'group_sizes': 'group_size', 'intervals': 'interval', 'in_channels': 'embed_dims',
             'embed_dims': 'out_channels', 'position_rows': 'rows', 'stem_kernel_sizes': 'kernel_sizes',
             'downsample_kernel_sizes': 'kernel_sizes'}


def names(case, message):
    if case.mistake:
        return re.search(r'\b(x|maps)\b', message)
    return case.wrong and any(name and re.search(rf'\b{name}\b', message)
                              for name in (case.wrong, PASSED_ON.get(case.wrong)))


# ---- arguments

rates = st.floats(0, 0.9)
drops = dict(attn_drop_rate=rates, drop_rate=rates)


def some(**optional):
    return st.fixed_dictionaries({}, optional=optional)


@st.composite
def heads(draw, options, width=6, fit=None, unit=1):
    """Heads that divide the channels, some of the options, and what `fit` adds to go with them."""
    num_heads = draw(st.integers(1, 4))
    arguments = dict(embed_dims=unit * num_heads * draw(st.integers(1, width)), num_heads=num_heads, **draw(options))
    if fit:
        fit(draw, arguments)
    return arguments


def divisor(draw, number):
    return draw(st.sampled_from([n for n in range(1, number + 1) if number % n == 0]))


def fit_window(draw, arguments):
    arguments['window_size'] = draw(st.integers(1, 9))
    arguments['shift_size'] = draw(st.integers(0, arguments['window_size'] - 1))


def fit_deformable(draw, arguments):
    arguments['offset_groups'] = divisor(draw, arguments['num_heads'])
    if arguments.get('attn_drop_rate'):
        arguments.pop('backend', None)


def fit_groups(draw, arguments):
    arguments['offset_groups'] = divisor(draw, arguments['num_heads'])


def fit_routing(draw, arguments):
    if draw(st.booleans()):
        arguments['qk_dims'] = arguments['num_heads'] * draw(st.integers(1, 6))
    if arguments.get('param_routing'):
        arguments['diff_routing'] = True


pair = st.integers(1, 16) | st.tuples(st.integers(1, 16), st.integers(1, 16))
deformable = dict(
    stride=st.integers(1, 9), offset_kernel_size=st.integers(1, 9), offset_range_factor=st.floats(-3, 6),
    offsets=st.booleans(), position_bias=st.sampled_from(POSITION_BIASES))
grouped = dict(group_size=st.integers(1, 9), qkv_bias=st.booleans(), far_groups=st.sampled_from(['map', 'block']),
               backend=st.sampled_from([None, 'views', 'reference']),
               position_bias=st.sampled_from(['dynamic', 'table', 'none']))
routing = dict(
    scale=st.none() | st.floats(0.1, 2), out_proj=st.booleans(), kv_sampling=st.sampled_from(KV_SAMPLINGS),
    kv_size=st.integers(1, 5), param_routing=st.booleans(), diff_routing=st.booleans(), soft_routing=st.booleans(),
    pad=st.sampled_from(['before', 'after']), mask_padding=st.booleans(),
    backend=st.sampled_from([None, 'gathered']))
lepe = st.sampled_from([0, 1, 3, 5])
ARGUMENTS = {
    'Attention': heads(some(qkv_bias=st.booleans(), lepe_kernel_size=lepe,
                            lepe_of=st.sampled_from(['value', 'input']))),
    'BiLevelRoutingAttention': heads(some(num_windows=st.integers(1, 9), topk=st.integers(1, 9),
                                          lepe_kernel_size=lepe, **routing), fit=fit_routing),
    'DeformableAttention': heads(some(table_size=pair, convention=st.sampled_from(['dat', 'dat_pp']),
                                      backend=st.sampled_from([None, 'dense', 'separable', 'reference']), **deformable,
                                      **drops), fit=fit_deformable),
    'DeformableBiLevelRoutingAttention': heads(some(
        stride=st.integers(1, 9), offset_kernel_size=st.sampled_from([1, 3, 5, 9]), num_windows=st.integers(1, 9),
        topk=st.integers(1, 9), mlp_ratio=st.floats(1, 4), lepe_kernel_size=st.sampled_from([1, 3, 5]), table_size=pair,
        backend=st.sampled_from([None, 'dense', 'separable', 'reference'])), fit=fit_groups),
    'DeformableDETRAttention': heads(some(num_points=st.integers(1, 5), map_size=pair, **drops)),
    'LocalAttention': heads(some(**drops), fit=fit_window),
    'LongDistanceAttention': heads(some(interval=st.integers(1, 9), adaptive_interval=st.booleans(), **grouped)),
    'NeighborhoodAttention': heads(some(kernel_size=st.sampled_from([3, 5, 7, 9]), pad_small=st.booleans(), **drops)),
    'ShiftedWindowAttention': heads(some(window_size=st.integers(2, 9), **drops)),
    'ShortDistanceAttention': heads(some(**grouped)),
    'SpatialReductionAttention': heads(some(sr_ratio=st.integers(1, 9), **drops)),
}


@st.composite
def attention(draw, **given):
    """The description of a layer, its heads made to fit `embed_dims`."""
    kind = draw(st.sampled_from(list(ARGUMENTS)))
    arguments = draw(ARGUMENTS[kind])
    return dict(type=draw(st.sampled_from(['', 'mmattn.'])) + kind, **arguments)


def attentions(count):
    """Descriptions of layers of the same channels: 12 fit 1 to 4 heads."""
    def without_channels(arguments):
        arguments.pop('embed_dims')
        if 'qk_dims' in arguments:
            arguments['qk_dims'] = 12
        return arguments
    one = attention().map(without_channels)
    return one | st.lists(one, min_size=1, max_size=count)


block = dict(mlp_ratio=st.floats(1, 4) | st.just(0), drop_path_rate=rates, layer_scale=st.floats(0, 1))


@st.composite
def block_arguments(draw, levels=None):
    projected = draw(st.booleans())
    channels = st.integers(1, 16) if projected else st.just(12)
    arguments = dict(in_channels=draw(st.lists(channels, min_size=1, max_size=levels) if levels else channels),
                     attention=draw(attentions(2)), **draw(some(**block)))
    if projected:
        arguments['embed_dims'] = 12
    if levels and draw(st.booleans()):
        count = len(arguments['in_channels'])
        arguments['levels'] = draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
        arguments['levels'] = [i - count if draw(st.booleans()) else i for i in arguments['levels']]
    return arguments


@st.composite
def kernels(draw, stride, most=3):
    steps = draw(st.lists(st.integers(0, 6), min_size=1, max_size=most, unique=True))
    return [stride + 2 * n for n in sorted(steps)]


@st.composite
def embedding(draw):
    stride = draw(st.integers(1, 5))
    sides = draw(kernels(stride, 4))
    return dict(in_channels=draw(st.integers(1, 6)), out_channels=2 ** len(sides) * draw(st.integers(1, 3)),
                kernel_sizes=sides, stride=stride)


@st.composite
def pyramid_options(draw, count):
    options = draw(some(in_channels=st.integers(1, 4), frozen_stages=st.integers(-1, count), norm_eval=st.booleans(),
                        out_norm=st.booleans(), with_cp=st.booleans(), drop_path_rate=rates))
    if count < 4 or draw(st.booleans()):
        options['out_indices'] = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))
    return options


counts = st.integers(1, 4)
dat_stage = dict(
    window_size=st.sampled_from([3, 5]), kernel_size=st.sampled_from([3, 5]), sr_ratio=st.integers(1, 4), **deformable,
    lpu=st.booleans(), mlp=st.sampled_from(['linear', 'depthwise', 'depthwise_residual']), layer_scale=st.floats(0, 1))


def blocks(letters, most=3):
    return dict(blocks=st.text(letters, min_size=0, max_size=most))


def stages(stage, count):
    return st.lists(stage, min_size=count, max_size=count)


@st.composite
def dat(draw):
    count = draw(counts)
    stage = heads(st.fixed_dictionaries(blocks('LSNDPX'), optional=dat_stage), fit=fit_deformable, unit=2)
    arguments = dict(arch=draw(stages(stage, count)), **draw(pyramid_options(count)), **draw(some(
        stem=st.sampled_from(['patch', 'overlapping', 'convolutional']), pad_patches=st.booleans(),
        convention=st.sampled_from(['dat', 'dat_pp']), mlp_ratio=st.floats(1, 4), pretrain_img_size=st.integers(1, 128),
        patch_size=st.sampled_from([1, 4, 9]), **drops)))
    return arguments


@st.composite
def crossformer(draw):
    count = draw(counts)

    def fit(draw, arguments):
        if draw(st.booleans()):
            arguments['group_size'] = [draw(st.integers(1, 9)) for _ in arguments['blocks']]

    stage = heads(st.fixed_dictionaries(blocks('SL', 4), optional=dict(
        group_size=st.integers(1, 9), interval=st.integers(1, 9), adaptive_interval=st.booleans(),
        position=st.sampled_from(['dynamic', 'table', 'none', 'conditional']),
        position_rows=st.none() | st.integers(1, 20), mlp_ratio=st.floats(1, 4), qkv_bias=st.booleans(),
        cooling=st.booleans())), fit=fit, unit=8, width=2)
    per_stage = st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=count, max_size=count)
    return dict(arch=draw(stages(stage, count)), **draw(pyramid_options(count)), **draw(some(
        stem_kernel_sizes=kernels(4), downsample_kernel_sizes=kernels(2),
        group_sizes=st.none() | per_stage, intervals=st.none() | per_stage,
        adaptive_interval=st.none() | st.booleans())))


@st.composite
def biformer(draw):
    count = draw(counts)

    def fit(draw, arguments):
        if draw(st.booleans()):
            arguments['routing'] = draw(some(**routing))
            fit_routing(draw, arguments['routing'] | {'num_heads': arguments['num_heads']})
            if arguments['routing'].get('param_routing'):
                arguments['routing']['diff_routing'] = True

    stage = heads(st.fixed_dictionaries(blocks('RAEC'), optional=dict(
        topk=st.integers(1, 9), num_windows=st.integers(1, 9), lepe_kernel_size=lepe,
        lepe_of=st.sampled_from(['value', 'input']), pos_kernel_size=lepe, mlp_ratio=st.floats(1, 4),
        mlp=st.sampled_from(['linear', 'depthwise']), layer_scale=st.floats(0, 1), pre_norm=st.booleans())),
        fit=fit, unit=8, width=2)
    return dict(arch=draw(stages(stage, count)), **draw(pyramid_options(count)), **draw(some(
        stem=st.sampled_from([None, 'convolutional', 'patch']),
        num_windows=st.none() | st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=count, max_size=count),
        mask_padding=st.none() | st.booleans())))


@st.composite
def debiformer(draw):
    count = draw(counts)
    stage = heads(st.fixed_dictionaries(blocks('RD'), optional=dict(
        topk=st.integers(1, 9), agent_topk=st.integers(1, 9), num_windows=st.integers(1, 9), stride=st.integers(1, 8),
        offset_kernel_size=st.sampled_from([1, 3, 5, 9]), table_size=pair, agent_mlp_ratio=st.floats(1, 4),
        mlp_ratio=st.floats(1, 4))), fit=fit_groups, unit=8, width=2)
    return dict(arch=draw(stages(stage, count)), **draw(pyramid_options(count)), **draw(some(
        num_windows=st.none() | st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=count, max_size=count))))


@st.composite
def attention_pyramid(draw):
    count = draw(counts)
    per_stage = st.lists(attentions(2).map(lambda a: [a] if isinstance(a, dict) else a), min_size=count,
                         max_size=count)
    return dict(attention=draw(attentions(2) | per_stage), embed_dims=[12] * count,
                depths=draw(stages(st.integers(0, 2), count)), num_heads=draw(stages(st.integers(1, 4), count)),
                **draw(pyramid_options(count)), **draw(some(mlp_ratio=st.floats(1, 4))))


@st.composite
def cross_scale_neck(draw):
    count = draw(counts)
    sides = draw(kernels(2, 2))
    num_heads = draw(st.sampled_from([1, 2, 4]))
    return dict(in_channels=draw(stages(st.integers(1, 8), count)), out_channels=4 * draw(st.integers(1, 4)),
                num_heads=num_heads, kernel_sizes=sides, **draw(some(
                    group_size=st.integers(1, 9), mlp_ratio=st.floats(1, 4) | st.just(0),
                    intervals=st.none() | stages(st.integers(1, 9), count),
                    num_outs=st.none() | st.integers(count, 6))))


# ---- families

def reduced(side, *strides):
    for stride in strides:
        side = -(-side // stride)
    return side


def pyramid_shapes(arguments, size, stem=None):
    dims = [stage['embed_dims'] for stage in arguments['arch']] if 'arch' in arguments else arguments['embed_dims']
    patch = arguments.get('patch_size', 4)
    floor = arguments.get('pad_patches') is not None and not arguments['pad_patches'] and (
        arguments.get('stem', stem) == 'patch')
    shapes = []
    for i, channels in enumerate(dims):
        stride = 2 if i else patch
        size = tuple(max(side // stride, 1) if floor else -(-side // stride) for side in size)
        shapes.append((channels, *size))
    return [shapes[i] for i in arguments.get('out_indices', range(4))]


def layer(name, channels='embed_dims', **options):
    return Family(make=getattr(layers, name), inputs=lambda arguments: [arguments[channels]],
                  outputs=lambda arguments, size: [(arguments[channels], *size)], **options)


def backbone(name, arguments, **defaults):
    return Family(arguments, getattr(backbones, name), lambda arguments: [arguments.get('in_channels', 3)],
                  partial(pyramid_shapes, **defaults), longest=160, area=6400)


def neck_outputs(arguments, size):
    channels = arguments.get('out_channels')
    return [(channels or c, *(reduced(side, 2 ** i) for side in size))
            for i, c in enumerate(arguments['in_channels'])]


def cross_scale_outputs(arguments, size):
    count = arguments.get('num_outs') or len(arguments['in_channels'])
    return [(arguments['out_channels'], *(reduced(side, 2 ** i) for side in size)) for i in range(count)]


FAMILIES = {name: layer(name, arguments=arguments) for name, arguments in ARGUMENTS.items()} | {
    'AttentionBlock': layer('AttentionBlock', 'in_channels', arguments=block_arguments(), area=400),
    'CrossScaleEmbedding': Family(
        embedding(), layers.CrossScaleEmbedding, lambda a: [a['in_channels']],
        lambda a, size: [(a['out_channels'], *(-(-side // a['stride']) for side in size))]),
    'AttentionNeck': Family(block_arguments(levels=3), necks.AttentionNeck, lambda a: a['in_channels'],
                            neck_outputs, area=400, listed=True),
    'CrossScaleNeck': Family(cross_scale_neck(), necks.CrossScaleNeck, lambda a: a['in_channels'],
                             cross_scale_outputs, listed=True),
    'DAT': backbone('DAT', dat(), stem='patch'),
    'DATPlusPlus': backbone('DATPlusPlus', dat()),
    'CrossFormer': backbone('CrossFormer', crossformer()),
    'CrossFormerPlusPlus': backbone('CrossFormerPlusPlus', crossformer()),
    'BiFormer': backbone('BiFormer', biformer()),
    'DeBiFormer': backbone('DeBiFormer', debiformer()),
    'AttentionPyramid': backbone('AttentionPyramid', attention_pyramid()),
}
EVERYWHERE = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
each_family = pytest.mark.parametrize('family', FAMILIES)


def test_every_attention_is_a_family():
    assert set(ATTENTIONS) == set(ARGUMENTS)


@each_family
@settings(max_examples=40, derandomize=True, **EVERYWHERE)
@given(data=st.data())
def test_finite_or_refused_by_name(family, data):
    event(check(data.draw(cases(family))))


@pytest.mark.slow
@each_family
@settings(max_examples=1000, **EVERYWHERE)
@given(data=st.data())
def test_finite_or_refused_by_name_many_times(family, data):
    event(check(data.draw(cases(family))))


# ---- what failed once

HEADS = dict(embed_dims=8, num_heads=2)
ROUTES = HEADS | dict(num_windows=2, topk=2)
LOCAL = dict(type='LocalAttention', num_heads=2)


def stage(**fields):
    return dict(arch=[HEADS | dict(blocks='') | fields], out_indices=[0])


@pytest.mark.parametrize(('family', 'arguments', 'options'), [
    *((name, HEADS, dict(batch=0)) for name in ARGUMENTS),
    *((name, HEADS | dict(position_bias='none'), dict(batch=0, size=(40, 3))) for name in (
        'DeformableAttention', 'LongDistanceAttention')),
    ('DeformableAttention', HEADS | dict(position_bias='log_cpb'), dict(batch=0)),
    ('DeformableAttention', HEADS | dict(backend='separable'), dict(batch=0)),
    ('BiLevelRoutingAttention', ROUTES | dict(soft_routing=True, mask_padding=True), dict(batch=0)),
    ('AttentionBlock', dict(in_channels=8, attention=LOCAL, mlp_ratio=2.0), dict(batch=0)),
    ('CrossScaleEmbedding', dict(in_channels=3, out_channels=8, kernel_sizes=(2, 8), stride=2), dict(batch=0)),
    ('BiLevelRoutingAttention', ROUTES | dict(kv_sampling='fracpool'), dict(autocast=torch.bfloat16)),
    ('DeformableAttention', HEADS | dict(backend='reference'), dict(dtype=torch.bfloat16)),
    ('DAT', stage() | dict(stem='convolutional', patch_size=9), {}),
])
def test_what_was_not_finite(family, arguments, options):
    assert check(Case(family, arguments, **options)) == 'finite'


@pytest.mark.parametrize(('family', 'arguments', 'wrong'), [
    *((name, HEADS | dict(num_heads=heads), 'num_heads') for name in ARGUMENTS for heads in (2.0, None, True)),
    *((name, HEADS | {rate: value}, rate) for name in ('DeformableAttention', 'DeformableDETRAttention',
                                                       'LocalAttention', 'NeighborhoodAttention',
                                                       'ShiftedWindowAttention', 'SpatialReductionAttention')
      for rate in ('drop_rate', 'attn_drop_rate') for value in (-0.1, 1.5, float('nan'), None)),
    ('Attention', HEADS | dict(lepe_kernel_size=4), 'lepe_kernel_size'),
    ('BiLevelRoutingAttention', ROUTES | dict(lepe_kernel_size=2.5), 'lepe_kernel_size'),
    ('BiLevelRoutingAttention', ROUTES | dict(topk=1.5), 'topk'),
    ('BiLevelRoutingAttention', ROUTES | dict(qk_dims=0), 'qk_dims'),
    ('BiLevelRoutingAttention', ROUTES | dict(scale=float('nan')), 'scale'),
    ('DeformableAttention', HEADS | dict(stride=0), 'stride'),
    ('DeformableAttention', HEADS | dict(offset_kernel_size=0), 'offset_kernel_size'),
    ('DeformableAttention', HEADS | dict(offset_range_factor=float('inf')), 'offset_range_factor'),
    ('DeformableAttention', HEADS | dict(table_size=(2, 0)), 'table_size'),
    ('DeformableAttention', HEADS | dict(table_size=7.0), 'table_size'),
    ('DeformableDETRAttention', HEADS | dict(num_points=0), 'num_points'),
    ('DeformableDETRAttention', HEADS | dict(map_size='14'), 'map_size'),
    ('LocalAttention', HEADS | dict(window_size=2.5), 'window_size'),
    ('LocalAttention', HEADS | dict(shift_size=1.5), 'shift_size'),
    ('LongDistanceAttention', HEADS | dict(interval=None), 'interval'),
    ('LongDistanceAttention', HEADS | dict(far_groups=None), 'far_groups'),
    ('NeighborhoodAttention', HEADS | dict(kernel_size=None), 'kernel_size'),
    ('ShiftedWindowAttention', HEADS | dict(window_size=None), 'window_size'),
    ('ShortDistanceAttention', HEADS | dict(group_size=True), 'group_size'),
    ('SpatialReductionAttention', HEADS | dict(sr_ratio=2.0), 'sr_ratio'),
    ('AttentionBlock', dict(in_channels=8, attention=3.5), 'attention'),
    ('AttentionBlock', dict(in_channels=8, attention='LocalAttention'), 'attention'),
    ('AttentionBlock', dict(in_channels=8, attention=LOCAL, mlp_ratio=-1), 'mlp_ratio'),
    ('AttentionBlock', dict(in_channels=8, attention=LOCAL, mlp_ratio=0.01), 'mlp_ratio'),
    ('AttentionBlock', dict(in_channels=8, attention=LOCAL, embed_dims=0), 'embed_dims'),
    ('AttentionBlock', dict(in_channels=8, attention=LOCAL, drop_path_rate=1), 'drop_path_rate'),
    ('AttentionBlock', dict(in_channels=8, attention=LOCAL, layer_scale=float('nan')), 'layer_scale'),
    ('CrossScaleEmbedding', dict(in_channels=3, out_channels=8, kernel_sizes=(), stride=2), 'kernel_sizes'),
    ('CrossScaleEmbedding', dict(in_channels=3, out_channels=8, kernel_sizes=(2, 4), stride=0), 'stride'),
    ('AttentionNeck', dict(in_channels=8, attention=LOCAL), 'in_channels'),
    ('AttentionNeck', dict(in_channels=[8, 8], attention=LOCAL, levels=1), 'levels'),
    ('CrossScaleNeck', dict(in_channels=[8], out_channels=7), 'out_channels'),
    ('CrossScaleNeck', dict(in_channels=[8], intervals=[None]), 'intervals'),
    ('DAT', stage() | dict(stem='convolutional', patch_size=2), 'patch_size'),
    ('DAT', stage(blocks='X', window_size=4), 'window_size'),
    ('DAT', stage() | dict(drop_path_rate=-0.1), 'drop_path_rate'),
    ('DAT', stage() | dict(out_indices=0), 'out_indices'),
    ('DAT', stage() | dict(out_indices=[0.5]), 'out_indices'),
    ('DAT', stage() | dict(frozen_stages=None), 'frozen_stages'),
    ('DAT', stage() | dict(in_channels=0), 'in_channels'),
    ('DAT', stage() | dict(arch=[3]), 'arch'),
    ('DAT', stage() | dict(arch=[]), 'arch'),
    ('CrossFormer', stage(blocks=5), 'blocks'),
    ('CrossFormer', stage(blocks='SL', group_size=[7]), 'group_size'),
    ('BiFormer', stage(blocks='R', routing=[1]), 'routing'),
    ('BiFormer', stage(blocks='C', pos_kernel_size=2), 'pos_kernel_size'),
    ('AttentionPyramid', dict(attention=LOCAL, num_heads=3), 'num_heads'),
    ('AttentionPyramid', dict(attention=3), 'attention'),
])
def test_what_was_not_refused_by_name(family, arguments, wrong):
    assert check(Case(family, arguments, wrong)) == 'refused'


@pytest.mark.parametrize('mistake', MISTAKES)
@pytest.mark.parametrize(('family', 'arguments'), [
    ('LocalAttention', HEADS), ('DeformableAttention', HEADS), ('BiFormer', stage()),
    ('AttentionBlock', dict(in_channels=8, attention=LOCAL)), ('AttentionNeck', dict(in_channels=[8], attention=LOCAL)),
    ('CrossScaleEmbedding', dict(in_channels=3, out_channels=8, kernel_sizes=(2, 8), stride=2)),
    ('CrossScaleNeck', dict(in_channels=[8, 8], out_channels=8, num_heads=2))])
def test_maps_that_are_none_are_refused_by_name(family, arguments, mistake):
    assert check(Case(family, arguments, mistake=mistake)) == 'refused'


def test_batch_norm_refuses_a_single_value_by_name():
    assert check(Case('BiFormer', stage(), batch=1, size=(1, 1))) == 'refused'
    assert check(Case('BiFormer', stage() | dict(norm_eval=True), batch=1, size=(1, 1))) == 'finite'
