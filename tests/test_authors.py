"""The layout that tests take for the authors' is theirs."""
import pytest
import torch

from mmattn.checkpoint import TRANSLATIONS
from mmattn.checkpoint.convert import convert
from tests import authors, filler
from tests.conftest import ROOT

CASES = {'dat_v1_backbone': 'dat', 'dat_pp_backbone': 'dat', 'crossformer_backbone_224': 'crossformer',
         'crossformer_pp_backbone': 'crossformer', 'biformer_backbone': 'biformer',
         'debiformer_backbone': 'debiformer'}


@pytest.mark.parametrize('name', CASES)
def test_names_are_those_of_the_authors_modules(name):
    case = filler.load(ROOT / 'tests' / 'data' / 'golden' / f'{name}.json')
    family = CASES[name]
    conversion = convert({key: torch.zeros(shape) for key, shape in case['params'].items()}, TRANSLATIONS[family])
    for theirs in case['params']:
        ours = TRANSLATIONS[family](theirs, torch.zeros(1))[0]
        if ours and not ours.startswith(('neck.', 'head.')):
            assert authors.name_of(ours, family, convolutions='v1' not in name) == theirs
    assert conversion.state
