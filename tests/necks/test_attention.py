import pytest
import torch
from mmengine.registry import MODELS

from mmattn.errors import ArgumentError
from mmattn.layers import BiLevelRoutingAttention
from mmattn.layers.block import ATTENTIONS
from mmattn.necks import AttentionNeck, AttentionPlugin
from tests.compare import check_trains

pytestmark = pytest.mark.filterwarnings('ignore:topk=')
OPTIONS = {'Attention': {}, 'SpatialReductionAttention': dict(sr_ratio=2)}


def attention(kind):
    return dict(type=kind, num_heads=4, **OPTIONS.get(kind, {}))


@pytest.mark.parametrize('kind', ATTENTIONS)
@pytest.mark.parametrize('options', [
    {}, dict(mlp_ratio=2.0, drop_path_rate=0.1, layer_scale=0.1), dict(embed_dims=12)], ids=str)
def test_every_layer_stands_on_the_chosen_levels(kind, options):
    neck = AttentionNeck([8, 16, 8], attention(kind), levels=[0, -1], **options).train()
    maps = [torch.randn(2, c, *size, requires_grad=True) for c, size in ((8, (13, 9)), (16, (7, 5)), (8, (1, 3)))]
    outs = neck(maps)
    assert outs[1] is maps[1]
    assert [out.shape for out in outs] == [x.shape for x in maps]
    assert all(out.is_contiguous() for out in outs)
    check_trains(outs, [*maps, *neck.parameters()])


def test_branches_are_residual_and_normed_before():
    plugin = AttentionPlugin(8, [attention('BiLevelRoutingAttention'), attention('ShortDistanceAttention')],
                             mlp_ratio=2.0).eval()
    x = y = torch.randn(1, 8, 14, 14)
    for branch, norm in zip(plugin.branches, plugin.norms):
        y = y + branch(norm(y))
    torch.testing.assert_close(plugin(x), y)
    assert len(plugin.branches) == 3
    start = AttentionPlugin(8, attention('LocalAttention'), layer_scale=1e-12)
    torch.testing.assert_close(start(x), x)


@pytest.mark.parametrize('kind', ATTENTIONS)
def test_layers_are_registered(kind):
    assert type(MODELS.build(dict(type=f'mmattn.{kind}', embed_dims=8, num_heads=4))) is ATTENTIONS[kind]


def test_an_element_of_mmdet_s_neck_list():
    fpn = dict(type='mmdet.FPN', in_channels=[8, 16], out_channels=8, num_outs=3)
    neck = dict(type='mmattn.AttentionNeck', in_channels=[8, 8, 8], attention=attention('mmattn.LocalAttention'))
    before = dict(type='mmattn.AttentionNeck', in_channels=[8, 16], attention=attention('DeformableAttention'))
    model = MODELS.build([before, fpn, neck])
    outs = model([torch.randn(1, 8, 16, 24), torch.randn(1, 16, 8, 12)])
    assert [tuple(out.shape) for out in outs] == [(1, 8, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6)]


def test_a_plugin_of_resnet():
    plugin = dict(cfg=dict(type='mmattn.AttentionPlugin', attention=attention('BiLevelRoutingAttention')),
                  stages=(False, False, True, True), position='after_conv3')
    model = MODELS.build(dict(type='mmdet.ResNet', depth=50, base_channels=8, plugins=[plugin]))
    layers = [m for m in model.modules() if isinstance(m, BiLevelRoutingAttention)]
    assert len(layers) == 6 + 3
    outs = model(torch.randn(2, 3, 64, 96))
    assert [out.shape[1] for out in outs] == [32, 64, 128, 256]
    check_trains(outs[2:], [p for layer in layers for p in layer.parameters()])


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: AttentionPlugin(8, []), r'attention=\[\] has no layer'),
    (lambda: AttentionPlugin(8, dict(type='Convolution')), "type='Convolution' is unknown; choose one of Attention, "),
    (lambda: AttentionPlugin(8, dict(num_heads=2)), "type='None' is unknown"),
    (lambda: AttentionPlugin(8, dict(type='LocalAttention', num_heads=3)), 'embed_dims=8 is not divisible'),
    (lambda: AttentionNeck([8], attention('Attention'), levels=[1]),
     r'levels=\[1\] must be different numbers from -1 to 0'),
    (lambda: AttentionNeck([8, 8], attention('Attention'), levels=[1, -1]), r'levels=\[1, -1\] must be different'),
    (lambda: AttentionNeck([8], attention('Attention'))([torch.zeros(1, 4, 2, 2)]),
     r'maps\[0\] has the shape \(1, 4, 2, 2\); \(B, 8, H, W\) is needed'),
])
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_printing_shows_all_levels():
    text = repr(AttentionNeck([8, 16], attention('Attention'), levels=[1]))
    assert text.startswith('AttentionNeck(\n  in_channels=(8, 16)\n')
    assert '(1): AttentionPlugin(' in text
    assert '(0): AttentionPlugin(' not in text


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(num_outs=5), r'^AttentionNeck has no argument num_outs=5: arguments of a base config stay unless the new '),
    (dict(level=[1]), r'^AttentionNeck has no argument level=\[1\]: level may be meant as levels$'),
])
def test_unknown_arguments_are_named_with_the_class(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        MODELS.build(dict(type='mmattn.AttentionNeck', in_channels=[8, 8], attention=attention('Attention'),
                          **arguments))
