import csv

import numpy as np
import pytest
from PIL import Image

from tests.measuring.test_logs import steps, write


@pytest.fixture
def logs(tmp_path):
    """A training by iterations of two runs, and one by epochs."""
    seg, det = tmp_path / 'seg', tmp_path / 'det'
    write(seg, '1', [*steps(1, 2, 3), dict(mIoU=20.5, step=3)], False)
    write(seg, '2', [*steps(3, 4, loss=0.5), dict(mIoU=30.25, step=4)], True)
    write(det, '1', [*(dict(line, epoch=1, loss_bbox=0.25) for line in steps(10, 20)),
                     {'coco/bbox_mAP': 0.125, 'coco/bbox_mAP_50': 0.5, 'step': 1}], False)
    return seg, det


def test_curves_of_two_trainings_in_one_picture(run_here, logs, tmp_path):
    picture, table = tmp_path / 'new/curves.png', tmp_path / 'numbers.csv'
    status, printed, _ = run_here('tools/plot_log.py', *logs, '--out', picture, '--csv', table)
    assert status == 0
    seg, det = logs
    assert f'| {seg} | loss | 1 | 4 | 1 | 0.5 | 0.5 | 1 |' in printed
    assert f'| {seg} | mIoU | 4 | 4 | 30.25 | 30.25 | 30.25 | 30.25 |' in printed      # that of step 3 came again
    assert f'| {det} | coco/bbox_mAP | 1 | 1 | 0.125 |' in printed
    assert f'{seg}: 2 runs joined' in printed
    assert 'mAP_50' not in printed
    pixels = np.array(Image.open(picture).convert('RGB')).reshape(-1, 3)
    for colour in ((31, 119, 180), (255, 127, 14)):         # matplotlib's first two
        assert (pixels == colour).all(1).any()
    rows = list(csv.DictReader(table.open()))
    assert [(row['phase'], row['iter'], row['mIoU']) for row in rows if row['training'] == str(seg)] == [
        ('train', '1', ''), ('train', '2', ''), ('train', '3', ''), ('train', '4', ''), ('val', '', '30.25')]


def test_chosen_figures(run_here, one_line, logs, tmp_path):
    picture = tmp_path / 'curves.png'
    _, printed, _ = run_here('tools/plot_log.py', logs[1], '--keys', 'loss_bbox', 'coco/bbox_mAP_50', '--out', picture)
    assert [line.split(' | ')[1] for line in printed.splitlines() if line.startswith('| /')] == [
        'loss_bbox', 'coco/bbox_mAP_50']
    line = one_line('tools/plot_log.py', logs[1], '--keys', 'bbox_mAP', '--out', picture)
    assert line.startswith('error: --keys bbox_mAP: no such figure; there are coco/bbox_mAP, ')


def test_the_last_of_several_trainings_is_drawn_and_said(run_here, logs, tmp_path):
    write(logs[0], '3', steps(1, 2, loss=9.0), False)
    _, printed, _ = run_here('tools/plot_log.py', logs[0], '--out', tmp_path / 'curves.png')
    assert f'| {logs[0]} | loss | 1 | 2 | 9 | 9 | 9 | 9 |' in printed
    assert 'the last of 2 trainings' in printed


def test_wrong_uses_are_one_line(one_line, logs, tmp_path):
    for args, message in ((('/none',), 'error: no log of a training in /none: there is no */vis_data/scalars.json'),
                          ((logs[0], '--out', '/proc/none/x.png'), 'error: /proc/none/x.png cannot be written: '),
                          ((logs[0], '--out', tmp_path / 'x.html'), 'x.html cannot be written: ')):
        assert message in one_line('tools/plot_log.py', *args)
