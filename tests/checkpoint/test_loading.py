import pytest
import torch

from mmattn.backbones import DAT, AttentionPyramid
from mmattn.checkpoint.comparing import compare
from mmattn.checkpoint.loading import compare_as_loaded, load_backbone
from mmattn.errors import CheckpointError
from tests.checkpoint.test_convert import authors
from tests.models import SMALL, small, small_cross


class WithAdapter(DAT):
    """A user's backbone: one module more than ours."""

    def __init__(self, **options):
        super().__init__(SMALL, pretrain_img_size=64, **options)
        self.adapter = torch.nn.Linear(2, 3)


class Detector(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = torch.nn.Linear(2, 3)


def ones(model):
    for p in model.parameters():
        torch.nn.init.ones_(p)
    return model


@pytest.mark.parametrize('wrap', [lambda model: model, Detector], ids=['backbone', 'detector'])
def test_a_subclass_with_a_module_of_its_own_takes_its_own_state(wrap):
    source, target = wrap(ones(WithAdapter())), wrap(WithAdapter())
    target.load_state_dict(source.state_dict())
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


@pytest.mark.parametrize('state', [lambda model: model.state_dict(), authors], ids=['ours', "the authors'"])
def test_a_subclass_starts_from_a_file_without_its_module(state):
    target = WithAdapter()
    before = target.adapter.weight.clone()
    load_backbone(target, state(ones(small())))
    assert (target.stem[0].weight == 1).all()
    assert torch.equal(target.adapter.weight, before)


def test_what_has_no_authors_files_says_that_a_file_is_foreign():
    model = AttentionPyramid(dict(type='LocalAttention'), (8, 16), depths=(1, 0), out_indices=(0, 1))
    for load in (lambda state: load_backbone(model, state), model.load_state_dict):
        with pytest.raises(CheckpointError, match=r'2 of 2 names are not of this family: layer1\.0\.w, conv1\.weight$'):
            load({'layer1.0.w': torch.zeros(1), 'conv1.weight': torch.zeros(1)})


def test_a_comparison_names_each_reason():
    model = torch.nn.Linear(2, 3)
    same = compare(model.state_dict(), model)
    assert same.is_same
    assert str(same) == '2 of 2 tensors are taken'
    other = compare({'weight': torch.zeros(3, 4), 'a': torch.zeros(1), 'b': torch.zeros(1), 'c': torch.zeros(1)}, model)
    assert (other.taken, other.missing, other.unknown) == ([], ['bias'], ['a', 'b', 'c'])
    assert other.other_shape == {'weight': ((3, 4), (3, 2))}
    assert not other.is_same
    assert str(other) == ('0 of 2 tensors are taken: 1 missing (bias), 3 unknown (a, b, …), '
                          '1 of another shape (weight [3, 4] instead of [3, 2])')


@pytest.mark.parametrize(('state', 'same'), [
    ({'weight': (3, 2)}, False), ({'weight': (3, 2), 'bias': (3,), 'x': (1,)}, False),
    ({'weight': (3, 2), 'bias': (4,)}, False), ({'bias': (3,), 'weight': (3, 2)}, True)], ids=str)
def test_any_reason_makes_a_difference(state, same):
    tensors = {name: torch.zeros(shape) for name, shape in state.items()}
    assert compare(tensors, torch.nn.Linear(2, 3)).is_same == same


def test_a_detector_is_compared_as_it_would_be_loaded():
    source, target = small(), Detector(small())
    head = {'head.weight': torch.zeros(3, 2), 'roi_head.fc.bias': torch.zeros(1)}
    theirs = {f'backbone.{name}': value for name, value in authors(source).items()} | head
    given, before = dict(theirs), {name: value.clone() for name, value in target.state_dict().items()}
    found = compare_as_loaded(theirs, target)
    assert found.missing == ['head.bias']
    assert found.unknown == ['roi_head.fc.bias']
    assert len(found.taken) == len(source.state_dict()) + 1
    assert list(theirs) == list(given)
    missing, unknown = target.load_state_dict(theirs, strict=False)
    assert (missing, unknown) == (found.missing, found.unknown)
    assert not torch.equal(target.backbone.stem[0].weight, before['backbone.stem.0.weight'])


def test_of_another_model_nothing_or_little_is_taken():
    target = Detector(small())
    alone = compare_as_loaded(authors(small()), target)        # no 'backbone.' before names
    assert alone.taken == []
    assert len(alone.missing) == len(target.state_dict())
    other = compare_as_loaded(Detector(small_cross()).state_dict(), target)
    assert 0 < len(other.taken) < len(target.state_dict()) / 2
    assert other.missing
    assert other.unknown
    assert other.other_shape
    with pytest.raises(CheckpointError, match='1 of 1 names are not of this family: conv1'):
        compare_as_loaded({'backbone.conv1': torch.zeros(1)}, target)
