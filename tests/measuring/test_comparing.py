"""Tables and pictures of several networks from several seeds, on records that are written here."""
import json
from pathlib import Path

import numpy as np
import pytest

from mmattn.errors import UsageError
from mmattn.measuring import comparing
from mmattn.measuring.comparing import Network, Result, Times, draw, draw_curves, table


def result(name, *values, key='coco/bbox_mAP', folder=Path('nowhere')):
    figures = [{key: value, 'coco/bbox_mAP_50': 0.9} for value in values]
    return Result(Network(name, Path(f'{name}.py'), folder), figures, memory=1234.4, parameters=1.234)


TIMES = [Times(0.5, 0.25), Times(1.5, 0.75)]


def test_several_seeds_have_a_mean_a_deviation_and_every_value():
    text = table([result('low', 0.5, 0.52, 0.54), result('high', 0.6, 0.6, 0.63)], TIMES)
    assert text.splitlines() == [
        '| network | box AP, mean and deviation | each of 3 seeds | beside low | p | training, s per step | '
        'testing, s per image | peak memory, MiB | parameters, M |',
        '|---|---|---|---|---|---|---|---|---|',
        '| high | 0.610 ± 0.017 | 0.600, 0.600, 0.630 | +0.090 | 0.0044 | 1.500 | 0.750 | 1234 | 1.23 |',
        '| low | 0.520 ± 0.020 | 0.500, 0.520, 0.540 |  |  | 0.500 | 0.250 | 1234 | 1.23 |']


def test_chance_is_that_of_the_formula():
    one, other = [0.5, 0.52, 0.54], [0.6, 0.6, 0.63, 0.65]
    error = [np.var(values, ddof=1) / len(values) for values in (one, other)]
    t = (np.mean(one) - np.mean(other)) / np.sqrt(sum(error))
    freedom = sum(error) ** 2 / sum(part ** 2 / (len(values) - 1) for part, values in zip(error, (one, other)))
    draws = np.abs(np.random.default_rng(0).standard_t(freedom, 400_000))
    assert comparing.chance(one, other) == pytest.approx((draws > abs(t)).mean(), abs=1e-3)
    assert comparing.chance(one, one) == 1


def test_without_any_spread_there_is_no_chance():
    assert np.isnan(comparing.chance([0.5, 0.5], [0.6, 0.6]))


def test_one_seed_has_its_value_alone():
    lines = table([result('one', 31.44, key='mIoU')], TIMES[:1]).splitlines()
    assert lines[0].startswith('| network | mIoU | training')
    assert lines[2].startswith('| one | 31.4 | 0.500 ')


def test_masks_come_before_boxes():
    both = Result(Network('m', Path('m.py'), Path()), [{'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.4}], 1, 1)
    assert both.accuracy.name == 'mask AP'
    assert both.values == [0.4]


def test_unknown_figures_are_named():
    other = Result(Network('m', Path('m.py'), Path()), [{'AR@100': 0.5}], 1, 1)
    with pytest.raises(UsageError, match=r'm\.py: its test gives AR@100; what can be compared is mIoU, coco/segm_mAP'):
        _ = other.accuracy


def test_a_test_without_figures_is_named(tmp_path, monkeypatch):
    (tmp_path / 'seed_3').mkdir()
    (tmp_path / 'seed_3/last_checkpoint').write_text('x.pth')
    monkeypatch.setattr(comparing, 'call', lambda *args: 1.)
    with pytest.raises(UsageError, match=r'm\.py: the test after the training from seed 3 has no figures'):
        comparing.train_and_test(Network('m', Path('m.py'), tmp_path), [3], parameters=1.0)


def test_pictures(tmp_path):
    for seed, values in ((0, (0.1, 0.3)), (5, (0.2, 0.5))):
        log = tmp_path / f'seed_{seed}/20260101_000000/vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text(''.join(json.dumps({'coco/bbox_mAP': value, 'step': step}) + '\n'
                               for step, value in enumerate(values, 1)))
    results = [result('one', 0.3, 0.5, folder=tmp_path)]
    assert draw_curves(results, [0, 5], tmp_path / 'curves.png')
    draw(results, TIMES, tmp_path / 'plot.png')
    assert all((tmp_path / name).stat().st_size > 5000 for name in ('curves.png', 'plot.png'))
