import json
import re

import pytest


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=8, validation=2)


@pytest.mark.slow
def test_two_attentions_make_a_table_and_a_plot_and_finished_ones_stay(run, data, tmp_path):
    options = '--iterations', 1, '--data', data, '--work-dir', tmp_path
    command = 'tools/ablate.py', 'deformable', 'bi-level-routing', *options
    run(*command)
    rows = [line.split(' | ') for line in (tmp_path / 'table.md').read_text().splitlines() if line.startswith('| ')]
    assert [row[0] for row in rows[:2]] == ['| attention', '| ---']
    assert {row[0] for row in rows[2:]} == {'| deformable', '| bi-level-routing'}
    for row in rows[2:]:
        assert all(re.fullmatch(r'[\d.]+', cell.strip(' |')) for cell in row[1:])
    assert (tmp_path / 'plot.png').stat().st_size > 10_000
    result = tmp_path / 'deformable_1/result.json'
    result.write_text(json.dumps({**json.loads(result.read_text()), 'mIoU': 99.9}))
    done = run(*command)
    assert 'Iter(train)' not in done.stdout
    assert '| deformable | 99.9 |' in done.stdout


@pytest.mark.parametrize(('args', 'message'), [
    (('convolution',), 'error: convolution: no such config in configs/ablation; choose from bi-level-routing, '),
    (('deformable', '--data', '/nowhere'), 'error: no scenes in /nowhere; draw them: python -m mmattn.datasets.scenes'),
])
def test_wrong_uses_are_one_line(one_line, args, message):
    assert one_line('tools/ablate.py', *args).startswith(message)
