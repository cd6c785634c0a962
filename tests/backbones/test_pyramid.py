"""What all backbones share: the arguments of `Pyramid`, and the errors that speak of them."""
import io
import re

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from mmattn.backbones import DAT, AttentionPyramid, DATPlusPlus
from mmattn.checkpoint.loading import load_backbone
from mmattn.errors import ArgumentError, CheckpointError
from tests.compare import check_pyramid, check_trains
from tests.models import BACKBONES, SMALL, small, small_bi, small_cross, small_debi

BASE = 'arguments of a base config stay unless the new ones have _delete_=True'
WEIGHTS = ("weights to start from are init_cfg=dict(type='Pretrained', checkpoint=…) of the backbone; pretrained of "
           'the model is to be None')
each_backbone = pytest.mark.parametrize('make', BACKBONES.values(), ids=BACKBONES)
pytestmark = pytest.mark.filterwarnings('ignore:topk=')


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(pretrained='open-mmlab://resnet50'), f"DAT has no argument pretrained='open-mmlab://resnet50': {WEIGHTS}"),
    (dict(norm_cfg=dict(type='BN')), f"DAT has no argument norm_cfg={{'type': 'BN'}}: {BASE}"),
    (dict(depth=50, style='pytorch'), f"DAT has no argument depth=50, style='pytorch': {BASE}"),
    (dict(drop_path=0.2), 'DAT has no argument drop_path=0.2: drop_path may be meant as drop_path_rate'),
    (dict(patch=4, out_indexes=(1,)),
     f'DAT has no argument patch=4, out_indexes=(1,): {BASE}; out_indexes may be meant as out_indices'),
])
def test_unknown_arguments_are_named_with_the_class_and_a_hint(arguments, message):
    with pytest.raises(ArgumentError, match=f'^{re.escape(message)}$'):
        small(**arguments)


def test_the_class_is_the_one_that_the_user_wrote():
    class Mine(DATPlusPlus):
        def __init__(self, *, lateral_dims=8, **dat):
            super().__init__(SMALL, **dat)

    with pytest.raises(ArgumentError, match='Mine has no argument lateral_dim=4: lateral_dim may be meant as lat'):
        Mine(lateral_dim=4)
    with pytest.raises(ArgumentError, match='Mine has no argument stm=1: '):
        Mine(stm=1)
    with pytest.raises(ArgumentError, match='AttentionPyramid has no argument depth=2: depth may be meant as depths'):
        MODELS.build(dict(type='mmattn.AttentionPyramid', attention=dict(type='LocalAttention'), depth=2))


def test_weights_of_a_whole_segmentor_get_the_hint():
    segmentor = ConfigDict(type='mmseg.EncoderDecoder', pretrained='open-mmlab://resnet50_v1c',
                           backbone=dict(type='mmattn.DAT', arch=SMALL), decode_head=None)
    with pytest.raises(ArgumentError, match=rf'DAT has no argument pretrained=.*: {re.escape(WEIGHTS)}'):
        MODELS.build(segmentor)


@pytest.mark.parametrize(('stage', 'message'), [
    (dict(embed_dims=8, num_heads=2, blocks='L', windows_size=3),
     'DATStage (a stage of arch) has no argument windows_size=3: windows_size may be meant as window_size'),
    (dict(embed_dims=8, blocks='L'), "a stage of arch has no num_heads: {'embed_dims': 8, 'blocks': 'L'}"),
    (dict(window_size=3), "a stage of arch has no embed_dims, num_heads, blocks: {'window_size': 3}"),
])
def test_fields_of_stages_are_named(stage, message):
    with pytest.raises(ArgumentError, match=f'^{re.escape(message)}$'):
        DAT([stage])


@each_backbone
@pytest.mark.parametrize('size', [(1, 1), (1, 40), (2, 3), (31, 2), (37, 53), (33, 64), (97, 131)])
@pytest.mark.parametrize('batch', [1, 3])
def test_any_size_gives_maps_of_the_declared_shapes_and_gradients(make, size, batch):
    model = make(norm_eval=True).train()
    check_pyramid(model, model.out_channels, batch, size)


@each_backbone
def test_an_image_does_not_depend_on_others(make):
    model = make().eval()
    x, other = torch.randn(3, 3, 60, 47), torch.randn(1, 3, 9, 130)
    with torch.no_grad():
        whole = model(x)
        model(other)        # leaves nothing behind
        assert all(map(torch.equal, model(x), whole))
        for a, b in zip(model(x[1:2]), whole, strict=True):
            torch.testing.assert_close(a, b[1:2], atol=1e-5, rtol=1e-4)


@each_backbone
def test_recomputing_blocks_changes_no_gradient(make):
    plain, saving = make(norm_eval=True).train(), make(norm_eval=True, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 45, 70)
    for model in (plain, saving):
        sum(out.square().sum() for out in model(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.parametrize('make', [small_bi, small_debi], ids=['BiFormer', 'DeBiFormer'])
def test_the_same_weights_serve_any_number_of_windows(make):
    few, many = make(num_windows=2), make(num_windows=5)
    many.load_state_dict(few.state_dict())
    x = torch.randn(1, 3, 90, 70)
    assert not torch.allclose(few.eval()(x)[0], many.eval()(x)[0])
    assert {layer.num_windows for layer in many.modules() if hasattr(layer, 'num_windows')} == {5}


@each_backbone
@pytest.mark.parametrize('out_indices', [(0,), (1, 3)])
def test_out_channels_are_those_of_the_maps(make, out_indices):
    model = make(out_indices=out_indices, norm_eval=True)
    assert model.out_channels == tuple(out.shape[1] for out in model(torch.randn(1, 3, 33, 47)))


@each_backbone
def test_a_norm_that_nothing_reads_can_be_left_out(make):
    model = make(out_indices=(1, 2, 3), out_norm=[2, 3], norm_eval=True).train()
    plain = make(out_indices=(1, 2, 3), out_norm=True, norm_eval=True).train()
    plain.load_state_dict(model.state_dict(), strict=False)
    for norm in plain.norms.values():
        torch.nn.init.normal_(norm.weight)
    model.norms.load_state_dict({name: value for name, value in plain.norms.state_dict().items() if name[0] != '1'})
    x = torch.randn(2, 3, 33, 47)
    first, *others = model(x)
    unread, *usual = plain(x)
    assert set(plain.state_dict()) - set(model.state_dict()) == {'norms.1.weight', 'norms.1.bias'}
    torch.testing.assert_close(plain.norms['1'](first), unread, rtol=1e-4, atol=1e-5)
    for a, b in zip(others, usual, strict=True):
        torch.testing.assert_close(a, b)
    check_trains(others, list(model.parameters()))


def test_a_file_with_all_norms_fits_where_some_are_left_out():
    whole, model = small(), small(out_norm=(1, 2, 3))
    assert [name for name in whole.state_dict() if model.left_out(name)] == ['norms.0.weight', 'norms.0.bias']
    assert load_backbone(model, whole.state_dict()).dropped == ['norms.0.weight', 'norms.0.bias']
    with pytest.raises(CheckpointError, match=r'it has in addition 8 parameters: norms\.0\.weight'):
        load_backbone(small(out_norm=False), whole.state_dict())


@pytest.mark.parametrize('out_norm', [None, 1, 'x', '', 0.5, [0], (1, 4), [True], [[1]], {1: 1}])
def test_norms_of_maps_that_are_not_given_are_refused(out_norm):
    with pytest.raises(ArgumentError, match=rf'^out_norm={re.escape(repr(out_norm))} must be True, False, or some of '
                       r'out_indices=\(1, 2\)$'):
        small(out_indices=(1, 2), out_norm=out_norm)


def test_printing_shows_what_differs():
    text = repr(small(out_indices=(1, 3), frozen_stages=1, cut_padding=True, with_cp=True))
    assert '(in_channels=3, out_indices=(1, 3), out_channels=(12, 24), cut_padding=True, frozen_stages=1'.replace(
        '(in', '\n  in') in text
    assert text.count('with_cp=True') == 4
    assert 'pad=False' in repr(small(pad_patches=False))
    assert 'pad=' not in repr(small())
    assert repr(small_bi()).count('pre_norm=False') == 2
    assert 'norm_eval=True' in repr(small_cross(norm_eval=True))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_traced_pyramid_gives_the_same_on_another_image():
    model = AttentionPyramid(dict(type='LocalAttention', window_size=3), (8, 16), depths=(2, 1), out_indices=(0, 1),
                             with_cp=True).train()
    x, other = torch.randn(2, 1, 3, 21, 34)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, x, check_trace=False), file)
    file.seek(0)
    for a, b in zip(torch.jit.load(file)(other), model(other), strict=True):
        torch.testing.assert_close(a, b)
