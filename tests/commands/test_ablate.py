import json
import re
import statistics
from argparse import ArgumentParser

import pytest

from mmattn.commands import ablate
from mmattn.commands.ablate import BASE
from mmattn.measuring.comparing import count_parameters


@pytest.fixture(scope='module')
def data(write_scenes):
    return write_scenes(training=8, validation=2)


def parsed(*args):
    parser = ArgumentParser()
    ablate.add_arguments(parser)
    return parser.parse_args([str(arg) for arg in args])


@pytest.mark.slow
def test_two_attentions_make_a_table_and_a_plot_and_finished_ones_stay(run, data, tmp_path):
    options = '--iterations', 1, '--data', data, '--work-dir', tmp_path
    command = 'tools/ablate.py', 'deformable', 'bi-level-routing', *options
    run(*command)
    rows = [line.split(' | ') for line in (tmp_path / 'table.md').read_text().splitlines() if line.startswith('| ')]
    assert rows[0][0] == '| network'
    assert {row[0] for row in rows[1:]} == {'| deformable', '| bi-level-routing'}
    for row in rows[1:]:
        assert all(re.fullmatch(r'[\d.]+', cell.strip(' |')) for cell in row[1:])
    assert (tmp_path / 'plot.png').stat().st_size > 10_000
    result = tmp_path / 'deformable_1/seed_0/result.json'
    content = json.loads(result.read_text())
    content['figures']['mIoU'] = 99.9
    result.write_text(json.dumps(content))
    done = run(*command)
    assert 'Iter(train)' not in done.stdout
    assert '| deformable | 99.9 |' in done.stdout


def test_configs_of_a_user_beside_the_built_in_ones(data, tmp_path):
    """Which folders they have, and what the table says of their data and recipe."""
    same, other = tmp_path / 'same.py', tmp_path / 'other.py'
    same.write_text(f"_base_ = {str(BASE)!r}\nmodel = dict(backbone=dict(depths=(1, 1, 1, 1)))\n")
    other.write_text(f"_base_ = {str(BASE)!r}\ntrain_cfg = dict(max_iters=7)\n"
                     "train_dataloader = dict(dataset=dict(data_root='elsewhere'))\n")
    args = parsed('--config', same, other, '--work-dir', tmp_path / 'work')
    rows = ablate.listed(args)
    assert [row.name for row in rows] == ['same', 'other']
    assert [row.note for row in rows] == ['', 'other: data and recipe of its own']
    assert [row.config for row in rows] == [same, other]
    assert rows[0].training(3) == rows[0].folder / 'seed_3'
    assert rows[0].folder != rows[1].folder
    base, folders = ablate.network(args), []
    for order in ('first = 1\nsecond = 2\n', 'second = 2\nfirst = 1\n'):      # the same, whatever the order
        (tmp_path / 'ordered.py').write_text(f'_base_ = {str(BASE)!r}\n{order}')
        folders.append(ablate.own(tmp_path / 'ordered.py', tmp_path / 'work', base).folder)
    assert folders[0] == folders[1]
    same.write_text(same.read_text() + "randomness = dict(seed=1)\n")         # another config, another training
    assert ablate.own(same, tmp_path / 'work', ablate.network(args)).folder != rows[0].folder
    assert ablate.own(other, tmp_path / 'work', ablate.network(args)) == rows[1]


@pytest.mark.slow
def test_a_config_of_a_user_makes_a_row(run, data, tmp_path):
    mine = tmp_path / 'mine.py'
    text = f"_base_ = {str(BASE)!r}\ntrain_cfg = dict(max_iters=1, val_interval=1)\n"
    for split in ('train', 'val', 'test'):
        text += f"{split}_dataloader = dict(dataset=dict(data_root={str(data)!r}))\n"
    mine.write_text(text)
    done = run('tools/ablate.py', '--config', mine, '--work-dir', tmp_path / 'work', '--seeds', 1, 2)
    assert '| mine | ' in done.stdout
    assert 'UperNet, 600 steps' not in done.stdout
    both = [json.loads(file.read_text())['figures']['mIoU'] for file in
            sorted(tmp_path.glob('work/mine_*/*/result.json'))]
    mean, spread = statistics.fmean(both), statistics.stdev(both)
    assert f'| {mean:.1f} ± {spread:.1f} | {both[0]:.1f}, {both[1]:.1f} |' in done.stdout
    logs = [(file / 'scalars.json').read_text() for file in tmp_path.glob('work/mine_*/seed_*/*/vis_data')]
    assert len(set(logs)) == 2          # the seeds make a difference


@pytest.mark.parametrize('name', ablate.names())
def test_every_attention_fits_the_small_network(name, data, tmp_path):
    network, = ablate.listed(parsed(name, '--data', data, '--work-dir', tmp_path))
    assert 5 < count_parameters(network) < 9


def test_a_network_that_cannot_be_built_ends_it_before_the_others_are_trained(one_line, data, tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text(f"_base_ = {str(BASE)!r}\nmodel = dict(backbone=dict(attention=dict(num_heads=5)))\n")
    message = one_line('tools/ablate.py', 'deformable', '--config', mine, '--data', data, '--work-dir', tmp_path)
    assert message == 'error: mine: embed_dims=48 is not divisible by num_heads=5'
    assert not list(tmp_path.glob('*/seed_*'))


@pytest.mark.parametrize(('args', 'message'), [
    ((), 'error: nothing to compare; name an attention, all, or a --config'),
    (('deformable', '--config', 'retinanet_biformer_scenes', '--data', 'configs'),
     'error: --config retinanet_biformer_scenes is of mmdet, and what it is to stand beside of mmseg: AP'),
    (('--config', 'retinanet_biformer_scenes', 'upernet_dat_scenes'), 'error: --config upernet_dat_scenes is of mmseg'),
    (('--config', '/none.py'), 'error: config not found: /none.py'),
    (('convolution',), 'error: convolution: no such config in configs/ablation; choose from bi-level-routing, '),
    (('deformable', '--data', '/nowhere'), 'error: no scenes in /nowhere; draw them: python -m mmattn.datasets.scenes'),
])
def test_wrong_uses_are_one_line(one_line, args, message):
    assert one_line('tools/ablate.py', *args).startswith(message)
