"""`python -m tests.parity`: what passes, and that it can fail."""
import json
from pathlib import Path

import pytest

from tests import filler, parity

CASES = sorted((Path(__file__).parent / 'data' / 'golden').glob('*.json'))


@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_the_authors_numbers_on_the_authors_weights(path):
    found = parity.errors(filler.load(path))
    assert found.pop('grad_input') < parity.GRADIENT_TOLERANCE
    assert found
    assert max(found.values()) < parity.OUTPUT_TOLERANCE, found


@pytest.fixture
def case(tmp_path):
    """A case, and a way to change a field and write it."""
    case = filler.load(next(path for path in CASES if path.stem == 'dat_v1_attention_dwc_pe'))

    def write(name, change):
        changed = json.loads(json.dumps(case))
        change(changed)
        path = tmp_path / f'{name}.json'
        path.write_text(json.dumps(changed))
        return str(path)

    return write


def test_a_line_per_case_and_status_zero(case, capsys):
    paths = [case('good', lambda c: None), case('again', lambda c: None)]
    with pytest.raises(SystemExit) as end:
        parity.main(paths)
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0
    assert lines[0].startswith('dat_v1_attention_dwc_pe: ok  out ')
    assert 'points' in lines[0]
    assert 'grad_input' in lines[0]
    assert lines[1] == lines[0]


def shift(name):
    def change(case):
        case['outputs'][name]['samples'] = [1.001 * value for value in case['outputs'][name]['samples']]
    return change


@pytest.mark.parametrize('name', ['out', 'points', 'grad_input'])
def test_an_output_that_is_off_fails(case, capsys, name):
    with pytest.raises(SystemExit) as end:
        parity.main([case('good', lambda c: None), case('bad', shift(name))])
    assert end.value.code == 1
    assert capsys.readouterr().out.splitlines()[1].startswith(f'dat_v1_attention_dwc_pe: FAILED, {name}  ')


def test_an_unknown_kind_and_no_case_at_all_fail(case, capsys):
    with pytest.raises(SystemExit) as end:
        parity.main([case('odd', lambda c: c.update(kind='vit'))])
    assert end.value.code == 1
    assert "FAILED, unknown kind 'vit'" in capsys.readouterr().out
    with pytest.raises(SystemExit, match='usage'):
        parity.main([])
