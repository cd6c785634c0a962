"""In how many architectures of mmdet and mmseg a backbone of ours takes part by a change of the config alone."""
import time
from collections import Counter

import pytest
import yaml

from tests.conftest import ROOT
from tests.drop_in import FAMILIES, configs_of, try_out

TABLE = yaml.safe_load((ROOT / 'tests/data/drop_in.yml').read_text())
LIBRARIES = 'mmdet', 'mmseg'
# What stands in the way of the backbone of the config, too.
OF_THE_LIBRARY = 'no operator for the CPU', 'a bug of the library'
REASONS = (*OF_THE_LIBRARY, 'asks for more than a pyramid', 'asks for maps of one size, as a ViT has')

pytestmark = pytest.mark.filterwarnings('ignore')      # of the libraries


def entry(library, name):
    """Why an architecture does not work or None, what is changed, and the side of the images."""
    found = TABLE[library][name]
    changes = {} if found == 'works' else dict(found)
    return changes.pop('fails', None), changes, changes.pop('side', 128)


def error_of(*args):
    """In a word what an architecture ends with, or None."""
    try:
        try_out(*args)
    except Exception as error:
        return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    return None


@pytest.mark.parametrize('library', LIBRARIES)
def test_the_table_names_configs_and_reasons(library):
    folder = configs_of(library)
    assert len(TABLE[library]) > 40
    for name in TABLE[library]:
        assert (folder / f'{name}.py').exists(), name
        reason, changes, _ = entry(library, name)
        assert reason in (None, *REASONS)
        assert all(key.startswith('model.') for key in changes), name


@pytest.mark.parametrize(('library', 'name', 'family'), [
    ('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', 'dat'),
    ('mmseg', 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512', 'biformer')])
def test_one_architecture(library, name, family):
    assert TABLE[library][name] == 'works'
    assert error_of(library, name, family) is None


@pytest.mark.slow
@pytest.mark.parametrize('library', LIBRARIES)
def test_what_is_laid_on_a_library_fails_with_the_backbone_of_the_config(library):
    for name in TABLE[library]:
        reason, _, side = entry(library, name)
        if reason in OF_THE_LIBRARY:
            assert error_of(library, name, None, (), side), name


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('library', LIBRARIES)
def test_architectures(library, family, capsys):
    counts, surprises, start = Counter(), [], time.monotonic()
    for name in TABLE[library]:
        reason, changes, side = entry(library, name)
        error = error_of(library, name, family, changes, side)
        counts[reason or ('with changes' if changes else 'works')] += error is None or bool(reason)
        if bool(error) != bool(reason):
            surprises.append(f'{name}: {error or "works"}')
    alone, changed = counts.pop('works'), counts.pop('with changes', 0)
    with capsys.disabled():
        print(f'\n{library} with {family}: {alone + changed} of {len(TABLE[library])} architectures, {alone} of these '
              f'by channels alone; {dict(counts)}, {time.monotonic() - start:.0f} s')
    assert surprises == []
