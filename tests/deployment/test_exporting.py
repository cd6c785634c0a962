"""ONNX files: written, checked before they are kept, and run without PyTorch."""
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
import onnxruntime
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from torch import nn

from mmattn.datasets.scenes import scene
from mmattn.deployment import OnnxModel, exporting
from mmattn.deployment.checking import differences
from mmattn.deployment.description import Padding
from mmattn.deployment.exporting import Model, Options, culprit, export
from mmattn.errors import UsageError
from tests.deployment.models import HEADS, detector, segmentor

CLASSES = 'disk', 'square', 'triangle', 'star'
PIPELINES = dict(
    mmdet=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64), keep_ratio=True),
           dict(type='PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor'))],
    mmseg=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64), keep_ratio=True),
           dict(type='PackSegInputs')])


def model(net):
    scope = 'mmdet' if hasattr(net, 'bbox_head') else 'mmseg'
    cfg = Config(dict(default_scope=scope, test_dataloader=dict(dataset=dict(type='Any', pipeline=PIPELINES[scope]))))
    return Model(net, cfg, 'tiny', CLASSES, 'random')


def predicted(net, image):
    """By the library, with its pipeline."""
    scope = 'mmdet' if hasattr(net, 'bbox_head') else 'mmseg'
    with DefaultScope.overwrite_default_scope(scope), torch.no_grad():
        size = image.shape[:2]
        data = Compose(PIPELINES[scope][1:])(dict(img=image, img_shape=size, ori_shape=size))
        return net.test_step(pseudo_collate([data]))[0]


def assert_detections(found, wanted):
    """As sets: many scores are equal."""
    assert len(found.scores) == len(wanted) > 3
    outputs = {name: getattr(found, name)[None] for name in ('boxes', 'scores', 'labels')}
    own = {name: value[None].numpy() for name, value in zip(outputs, (wanted.bboxes, wanted.scores, wanted.labels))}
    assert all(one.share <= 1 for one in differences(outputs, own, 'image'))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """FCOS, its file, and how far that is from eager mode."""
    net, file = detector('FCOS'), tmp_path_factory.mktemp('onnx') / 'fcos.onnx'
    return net, file, export(model(net), file, Options(batch_size=2))


def test_a_file_gives_what_the_library_predicts(exported):
    net, file, found = exported
    assert {one.output for one in found} == {'detections', 'boxes', 'scores', 'maps of the head'}
    assert {one.image for one in found} == {'scene', 'noise'}
    image = scene('validation', 1, (80, 120))[0]        # fills the input: boxes are cut at its edges
    assert_detections(OnnxModel(file)(image), predicted(net, image).pred_instances)


def test_a_file_describes_itself(exported):
    _, file, _ = exported
    described = OnnxModel(file).description
    assert json.loads(described.to_json()) == json.loads(file.with_suffix('.json').read_text())
    assert (described.model, described.task, described.classes) == ('tiny', 'detection', list(CLASSES))
    assert described.input == dict(name='image', shape=[2, 3, 64, 96], dtype='float32')
    assert [(one['name'], one['shape']) for one in described.outputs] == [
        ('boxes', [2, 20, 4]), ('scores', [2, 20]), ('labels', [2, 20])]
    assert described.suppression == dict(score_threshold=0.3, candidates_of_a_level=60, overlap=0.5, detections=20,
                                         class_agnostic=False)
    assert described.checkpoint == dict(file='random', sha256=None)
    assert described.versions['torch'] == torch.__version__
    session = onnxruntime.InferenceSession(file)
    assert [(node.name, node.shape) for node in session.get_outputs()] == [
        (one['name'], one['shape']) for one in described.outputs]
    assert [(node.name, node.shape) for node in session.get_inputs()] == [('image', [2, 3, 64, 96])]


def test_a_smaller_batch_of_smaller_images_is_completed_and_a_larger_one_refused(exported):
    _, file, _ = exported
    runner = OnnxModel(file)
    x = np.random.default_rng(0).normal(size=(1, 3, 40, 96)).astype(np.float32)
    whole = np.zeros((2, 3, 64, 96), np.float32)
    whole[:1, :, :40] = x
    assert runner.run(x)['scores'].shape == (1, 20)
    np.testing.assert_array_equal(runner.run(x)['scores'], runner.run(whole)['scores'][:1])
    for shape in ((3, 3, 64, 96), (1, 3, 65, 96)):
        with pytest.raises(UsageError, match=r'takes 2 x 3 x 64 x 96, and the images are .*: export it with a larger'):
            runner.run(np.zeros(shape, np.float32))


def test_a_file_runs_without_torch(exported):
    _, file, _ = exported
    code = (f'import sys, numpy as np; sys.modules["torch"] = None; from mmattn.deployment import OnnxModel; '
            f'print(len(OnnxModel({str(file)!r})(np.zeros((50, 80, 3), np.uint8)).scores))')
    assert int(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout) >= 0


@pytest.mark.parametrize(('output', 'size'), [
    ('labels', (64, 96)), pytest.param('logits', (128, 192), marks=pytest.mark.slow)])      # labels have lost the rest
def test_label_maps_are_those_of_the_library(output, size, tmp_path):
    net, image = segmentor(), scene('validation', 1, size)[0]
    wanted = predicted(net, image).pred_sem_seg.data[0].numpy()
    export(model(net), tmp_path / 'net.onnx', Options((64, 96), output=output))
    labels = OnnxModel(tmp_path / 'net.onnx')(image)
    assert labels.shape == size
    assert labels.dtype == np.int64
    assert np.mean(labels == wanted) > 0.999


def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    file = tmp_path / 'net.onnx'
    file.write_bytes(b'before')
    monkeypatch.setattr(exporting, 'differences', lambda outputs, wanted, *rest: differences(
        dict(outputs, labels=outputs['labels'] + 1), wanted, *rest))
    with pytest.raises(UsageError, match=r'net\.onnx is not kept, onnxruntime differs from eager mode: labels on '):
        export(model(segmentor()), file, Options((64, 96)))
    assert file.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_onnxruntime_cannot_run_is_named(exported):
    with pytest.raises(UsageError, match=r'^net\.onnx is not kept: InvalidArgument: .*Got invalid dimensions'):
        exporting.run(OnnxModel(exported[1]).session, np.zeros((2, 3, 40, 96), np.float32), 'net.onnx is not kept')
    with pytest.raises(AttributeError):
        exporting.run(None, np.zeros(1), '')


class Stubborn(nn.Module):
    """A layer that looks at its values, or at its size."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        if self.what == 'values':
            return x * 2 if x.sum() > 0 else x
        return x.reshape(len(x), -1, int(x.shape[2]) * int(x.shape[3])).reshape(len(x), -1, 8, 12)


@pytest.mark.parametrize(('what', 'dynamic', 'text'), [
    ('values', False, r'^backbone\.layer2\.2 \(Stubborn\) cannot be exported: GuardOnDataDependentSymNode'),
    pytest.param('size', True, r'^backbone\.layer2\.2 \(Stubborn\) cannot be exported with a height and width that are '
                 'free from 64 pixels on; a fixed size can, without --dynamic, and a larger --shape may help: ',
                 marks=pytest.mark.slow)])
def test_the_layer_that_cannot_be_exported_is_named(what, dynamic, text, tmp_path):
    net = segmentor()
    net.backbone.layer2.append(Stubborn(what))
    with pytest.raises(UsageError, match=text) as error:
        export(model(net), tmp_path / 'net.onnx', Options((64, 96), dynamic=dynamic))
    assert '\n' not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_layer_is_named_where_every_one_can_be_exported():
    for free in (None, Padding((0., 0., 0.), 64, 64, divisor=32)):
        assert culprit(segmentor(), torch.randn(1, 3, 64, 96), free) == ''


def test_what_is_refused_before_anything_is_recorded(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r'net\.pt: the name of the file must end in \.onnx'):
        export(model(segmentor()), tmp_path / 'net.pt')
    net = segmentor(crop_size=(32, 32), stride=(16, 16))
    net.test_cfg['mode'] = 'slide'
    with pytest.raises(UsageError, match=r"test_cfg\.mode='slide' cuts windows for one size: leave --dynamic out"):
        export(model(net), tmp_path / 'net.onnx', Options(dynamic=True))
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(UsageError, match=r"^onnxscript is missing: pip install 'mmattn\[export\]'$"):
        export(model(segmentor()), tmp_path / 'net.onnx')


def test_files_that_cannot_be_run(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r'no such file: .*none\.onnx'):
        OnnxModel(tmp_path / 'none.onnx')
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(b'no model')
    with pytest.raises(UsageError, match=r'broken.onnx is not a model that onnxruntime can read: '):
        OnnxModel(broken)
    torch.onnx.export(nn.ReLU(), (torch.ones(1),), dynamo=True, verbose=False).save(tmp_path / 'other.onnx')
    with pytest.raises(UsageError, match=r'other.onnx was not written by this version of mmattn export'):
        OnnxModel(tmp_path / 'other.onnx')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UsageError, match=r"^onnxruntime is missing: pip install 'mmattn\[export\]'$"):
        OnnxModel(broken)


@pytest.mark.slow
def test_raw_files_leave_suppression_to_others(tmp_path):
    net = detector('RetinaNet', nms=dict(type='soft_nms'))
    export(model(net), tmp_path / 'net.onnx', Options(raw=True))
    runner, image = OnnxModel(tmp_path / 'net.onnx'), scene('validation', 1)[0]
    with pytest.raises(UsageError, match='was exported with --raw'):
        runner(image)
    outputs = runner.run(runner.prepare(image).array)
    assert outputs['boxes'].shape == (1, 60 + 60 + 24, 4)       # of 384, 96 and 24
    assert outputs['scores'].shape == (1, 144, 4)


def test_a_pipeline_that_is_not_described_prepares_no_image(exported):
    runner = OnnxModel(exported[1])
    rules = replace(runner.description.preprocessing, other_steps=('CLAHE',))
    runner.description = replace(runner.description, preprocessing=rules)
    with pytest.raises(UsageError, match='the pipeline has CLAHE, which is not described: prepare the input yourself'):
        runner(np.zeros((64, 96, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize('raw', [False, True], ids=['detections', 'raw'])
@pytest.mark.parametrize('dynamic', [False, True], ids=['fixed', 'dynamic'])
@pytest.mark.parametrize('name', HEADS)
def test_every_head(name, dynamic, raw, tmp_path):
    if raw and name not in ('FCOS', 'YOLOX'):
        pytest.skip('the head makes no difference to it')
    net = detector(name)
    found = export(model(net), tmp_path / 'net.onnx', Options(raw=raw, dynamic=dynamic))
    assert all(one.share <= 1 for one in found)
    runner = OnnxModel(tmp_path / 'net.onnx')
    assert runner.description.size == (None if dynamic else (64, 96))
    if not raw:
        for size in ((80, 120), (120, 80)):
            image = scene('validation', 2, size)[0]
            if dynamic or size == (80, 120):       # the other one is upright, and does not fit
                most = runner.description.suppression['detections']
                wanted = predicted(net, image).pred_instances[:most]
                edges = torch.tensor([size[1], size[0]] * 2)        # at which the library's YOLOX does not cut
                wanted.bboxes = wanted.bboxes.clamp(min=torch.zeros(4)).minimum(edges)
                assert_detections(runner(image), wanted)


@pytest.mark.slow
@pytest.mark.parametrize('output', ['labels', 'logits'])
@pytest.mark.parametrize('mode', ['whole', 'slide', 'dynamic'])
def test_every_segmentor(mode, output, tmp_path):
    net = segmentor(pool_scales=(1, 2, 3) if mode == 'dynamic' else (), crop_size=(32, 48), stride=(20, 31))
    net.test_cfg['mode'] = 'slide' if mode == 'slide' else 'whole'
    found = export(model(net), tmp_path / 'net.onnx', Options((64, 96), output=output, dynamic=mode == 'dynamic'))
    assert all(one.share <= 1 for one in found)
