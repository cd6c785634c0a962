"""tools/export.py, and tools/test.py with what it wrote."""
import json
import re

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
import torch
from mmengine.fileio import load

from mmattn.config import read_config
from mmattn.deployment import OnnxModel
from mmattn.engine.building import load_model
from tests.conftest import ROOT, loader_options

TINY = {
    'detector.py': f"""
_base_ = '{ROOT}/configs/demo/retinanet_biformer_scenes.py'
model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=4, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[8, 16, 32], out_channels=16, start_level=0, num_outs=3),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.01))
""",
    'segmentor.py': f"""
_base_ = '{ROOT}/configs/demo/upernet_dat_scenes.py'
model = dict(
    backbone=dict(_delete_=True, type='mmdet.ResNet', depth=18, base_channels=4, out_indices=(2, 3)),
    decode_head=dict(_delete_=True, type='FCNHead', in_channels=32, in_index=1, channels=8, num_convs=1,
                     concat_input=False, num_classes=6, norm_cfg=dict(type='BN')),
    auxiliary_head=None)
"""}
EXPORT, TEST = 'tools/export.py', 'tools/test.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Both configs, and checkpoints of weights that give something to compare."""
    out = tmp_path_factory.mktemp('tiny')
    for name, text in TINY.items():
        (out / name).write_text(text)
        net = load_model(read_config(out / name), 'random')
        torch.nn.init.normal_(net.bbox_head.retina_cls.weight if hasattr(net, 'bbox_head')
                              else net.decode_head.conv_seg.weight, std=0.3)
        torch.save(dict(state_dict=net.state_dict(), meta={}), out / name.replace('.py', '.pth'))
    return out


@pytest.mark.parametrize('kind', ['detector', pytest.param('segmentor', marks=pytest.mark.slow)])
def test_a_file_is_tested_like_its_checkpoint(kind, folder, run_here, write_scenes, tmp_path):
    config, checkpoint, file = (folder / f'{kind}.{end}' for end in ('py', 'pth', 'onnx'))
    status, out, err = run_here(EXPORT, config, checkpoint, '-o', file)
    assert status == 0, err[-2000:]
    assert f'wrote {file}' in out
    assert re.search(r'^  maps of the head on noise: \S+ +\(up to \S+\)$', out, re.MULTILINE)
    described = json.loads(file.with_suffix('.json').read_text())
    assert described['checkpoint']['file'] == checkpoint.name
    assert len(described['checkpoint']['sha256']) == 64
    assert described['input']['shape'] == [1, 3, 128, 160]

    scenes, options = write_scenes(1, 3), []
    if kind == 'detector':
        options = [f'test_evaluator.ann_file={scenes}/annotations/instances_validation.json']
    figures, predictions = [], []
    for weights in (checkpoint, file):
        status, out, err = run_here(TEST, config, weights, '--work-dir', tmp_path, '--out', tmp_path / 'out.pkl',
                                    '--cfg-options', *loader_options(scenes), *options)
        assert status == 0, err[-2000:]
        figures.append([line for line in out.splitlines() if re.match(r'\S*(bbox_mAP|mIoU)\S* \S+$', line)])
        predictions.append(load(tmp_path / 'out.pkl'))
    assert figures[0]
    assert figures[0] == figures[1]
    for one, other in zip(*predictions, strict=True):
        if kind == 'detector':
            one, other = (sample['pred_instances']['scores'] for sample in (one, other))
        else:
            one, other = (sample['pred_sem_seg']['data'] for sample in (one, other))
        assert len(one)
        torch.testing.assert_close(one, other, check_dtype=False)


def test_options_reach_the_file(folder, run_here, tmp_path):
    file = tmp_path / 'small.onnx'
    status, _, err = run_here(
        EXPORT, folder / 'detector.py', 'random', '-o', file, '--shape', '60', '90', '--batch-size', '2', '--score-thr',
        '0.2', '--opset', '18', '--cfg-options', 'model.test_cfg.max_per_img=7')
    assert status == 0, err[-2000:]
    described = OnnxModel(file).description
    assert described.input['shape'] == [2, 3, 64, 96]       # the next multiples of 32
    assert (described.preprocessing.resize.width, described.preprocessing.resize.height) == (96, 64)
    assert (described.suppression['score_threshold'], described.suppression['detections']) == (0.2, 7)
    assert described.versions['opset'] == 18


@pytest.mark.parametrize(('kind', 'options', 'text'), [
    ('segmentor', ['--raw'], '--raw is for detectors, and segmentor is a segmentor'),
    ('segmentor', ['--score-thr', '0.1'], '--score-thr is for detectors, and segmentor is a segmentor'),
    ('detector', ['--output', 'logits'], '--output is for segmentors, and detector is a detector'),
    ('detector', ['--shape', '0', '5'], '--shape [0, 5] --batch-size 1: whole numbers from 1 are needed'),
    ('detector', ['--batch-size', '0'], 'whole numbers from 1 are needed')])
def test_options_of_the_other_task_are_refused(kind, options, text, folder, one_line, tmp_path):
    assert text in one_line(EXPORT, folder / f'{kind}.py', 'random', '-o', tmp_path / 'net.onnx', *options)
    assert not list(tmp_path.iterdir())


def test_two_stages_are_refused(one_line, tmp_path):
    line = one_line(EXPORT, 'configs/demo/mask-rcnn_dat_scenes.py', 'random', '-o', tmp_path / 'net.onnx')
    assert line.startswith('error: MaskRCNN cannot be exported; segmentors of mmseg and single-stage detectors whose')


def test_a_missing_package_is_named(folder, one_line, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__('sys').modules, 'onnxruntime', None)
    assert one_line(EXPORT, folder / 'detector.py', 'random', '-o', tmp_path / 'net.onnx') == (
        "error: onnxruntime is missing: pip install 'mmattn[export]'")


def test_files_that_do_not_fit_a_config(folder, one_line, write_scenes, tmp_path):
    from mmattn.deployment.exporting import Model, Options, export
    scenes = write_scenes(1, 3)
    rest = '--work-dir', tmp_path, '--cfg-options', *loader_options(scenes)
    cfg = read_config(folder / 'segmentor.py')
    export(Model(load_model(cfg, 'random'), cfg, 'tiny', ['a'] * 6, 'random'), tmp_path / 'net.onnx',
           Options((64, 96)))
    file = tmp_path / 'net.onnx'
    assert one_line(TEST, folder / 'segmentor.py', file, *rest) == (
        f'error: {file} takes 1 x 3 x 64 x 96, and the images are 1 x 3 x 128 x 160: export it with a larger --shape '
        'or --batch-size, or with --dynamic')
    assert 'none.onnx' in one_line(TEST, folder / 'segmentor.py', tmp_path / 'none.onnx', *rest)
    assert one_line(TEST, folder / 'segmentor.py', file, '--tta', *rest) == (
        f'error: --tta: {file} predicts for images as they are')
    evaluator = f'test_evaluator.ann_file={scenes}/annotations/instances_validation.json'
    assert one_line(TEST, folder / 'detector.py', file, *rest, evaluator) == (
        f'error: {file} is for segmentation, and the config for detection')
