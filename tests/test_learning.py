"""Whole trainings that must reach a known quality."""
import re

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_eight_real_images_are_learned_by_heart(run, tmp_path):
    if not (ROOT / 'data/coco/annotations/instances_train2017.json').is_file():
        pytest.skip('data/coco is missing; link COCO or a part of it there')
    log = run('tools/train.py', 'configs/demo/mask-rcnn_dat-t_eight-images_coco.py', '--work-dir', tmp_path).stdout
    assert float(re.findall(r'coco/bbox_mAP: ([\d.]+)', log)[-1]) >= 0.5
