"""What is exported gives what the libraries predict."""
import pytest
import torch
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
from mmdet.structures import DetDataSample

from mmattn.deployment.graphs import DetectorGraph, SegmentorGraph, adaptive_means, means_by_products, starts
from mmattn.errors import UsageError
from tests.deployment.models import CLASSES, HEADS, LIMITS, NMS, detector, segmentor

SIZE = 64, 96


@pytest.fixture
def images():
    return torch.randn(2, 3, *SIZE)


def predicted(net, images):
    samples = [DetDataSample(metainfo=dict(img_shape=SIZE, scale_factor=(1.0, 1.0))) for _ in images]
    with torch.no_grad():
        return [sample.pred_instances for sample in net.predict(images, samples, rescale=False)]


def assert_detections(net, images):
    with torch.no_grad():
        outputs = DetectorGraph(net)(images)
    for boxes, scores, labels, wanted in zip(*outputs, predicted(net, images)):
        wanted = wanted[:boxes.shape[0]]        # the library's YOLOX sets no limit
        count = len(wanted)
        assert count == int((labels >= 0).sum())
        torch.testing.assert_close(boxes[:count], wanted.bboxes)
        torch.testing.assert_close(scores[:count], wanted.scores)
        assert torch.equal(labels[:count], wanted.labels)
        assert not boxes[count:].any()
        assert not scores[count:].any()
        assert (labels[count:] == -1).all()


@pytest.mark.parametrize('name', HEADS)
def test_detections_are_those_of_the_library(name, images):
    net = detector(name)
    found = predicted(net, images)
    assert sum(map(len, found)) > 8         # so that something is compared
    assert_detections(net, images)


@pytest.mark.parametrize('changed', [
    dict(nms_pre=-1), dict(score_thr=0.0, max_per_img=50), dict(nms=dict(NMS, class_agnostic=True)),
    dict(min_bbox_size=20), dict(score_thr=0.999999)], ids=str)
def test_other_limits(changed, images):
    assert_detections(detector('FCOS', **changed), images)


def test_yolox_has_a_limit_where_it_sets_none(images):
    net = detector('YOLOX', max_per_img=None, score_thr=0.0)
    boxes, scores, labels = DetectorGraph(net)(images)
    assert boxes.shape == (2, 300, 4)
    assert scores.shape == labels.shape == (2, 300)


@pytest.mark.parametrize('name', HEADS)
def test_raw_are_the_boxes_that_the_library_suppresses(name, images):
    net = detector(name, nms_pre=-1, score_thr=0.0, min_bbox_size=-1)
    with torch.no_grad():
        boxes, scores = DetectorGraph(net, raw=True)(images)
        maps = net.bbox_head(net.extract_feat(images))
        wanted = net.bbox_head.predict_by_feat(*maps, batch_img_metas=[dict(img_shape=SIZE)] * 2, with_nms=False)
    assert scores.shape == (*boxes.shape[:2], CLASSES)
    sure, labels = scores.max(-1)
    for own, score, label, found in zip(boxes, sure, labels, wanted):
        best = found.scores.argmax()
        torch.testing.assert_close(score.max(), found.scores[best])
        torch.testing.assert_close(own[score.argmax()], found.bboxes[best])
        assert label[score.argmax()] == found.labels[best]


def test_raw_keeps_the_surest_locations_of_each_level(images):
    boxes, scores = DetectorGraph(detector('FCOS', nms_pre=10), raw=True)(images)
    every, _ = DetectorGraph(detector('FCOS', nms_pre=-1), raw=True)(images)
    assert boxes.shape == (2, 10 + 10 + 6, 4)       # of 96, 24 and 6
    assert every.shape == (2, 96 + 24 + 6, 4)
    assert (scores[:, :9].amax(-1) >= scores[:, 1:10].amax(-1)).all()


@pytest.mark.parametrize('name', ['RetinaNet', 'ATSS', 'YOLOX'])
def test_a_graph_for_any_size_gives_the_same_detections(name, images):
    net = detector(name)
    with torch.no_grad():
        for free, fixed in zip(DetectorGraph(net, dynamic=True)(images), DetectorGraph(net)(images)):
            torch.testing.assert_close(free, fixed)


@pytest.mark.parametrize('nms', [dict(type='soft_nms', iou_threshold=0.5), dict(NMS, score_threshold=0.1), None])
def test_another_suppression_is_refused_and_left_out_of_raw(nms):
    net = detector('RetinaNet', nms=nms)
    with pytest.raises(UsageError, match=r"test_cfg.nms=.* cannot be exported, .*; --raw leaves it out"):
        DetectorGraph(net)
    assert DetectorGraph(net, raw=True).outputs == ['boxes', 'scores']


def test_other_detectors_are_refused():
    with pytest.raises(UsageError, match=r'^Identity cannot be exported; segmentors of mmseg and single-stage'):
        DetectorGraph(nn.Identity())
    with pytest.raises(UsageError, match=r'^Identity cannot be exported; '):
        SegmentorGraph(nn.Identity())
    net = detector('RetinaNet')

    class Own(type(net.bbox_head)):
        def _bbox_post_process(self, *args, **kwargs):
            raise NotImplementedError
    net.bbox_head.__class__ = Own
    with pytest.raises(UsageError, match=r'^RetinaNet with Own cannot be exported; .* RTMDet, YOLOX'):
        DetectorGraph(net)
    net = detector('RetinaNet')
    net.bbox_head.loss_cls.custom_cls_channels = True
    with pytest.raises(UsageError, match='RetinaNet cannot be exported with CrossEntropyLoss'):
        DetectorGraph(net)


@pytest.mark.parametrize('classes', [CLASSES, 1])
def test_logits_and_labels_are_those_of_the_library(classes, images):
    net = segmentor(classes)
    with torch.no_grad():
        logits, = SegmentorGraph(net, 'logits')(images)
        net.decode_head.threshold = logits.sigmoid().median().item()
        labels, same = SegmentorGraph(net, maps=True)(images)
        samples = net.predict(images)
    assert torch.equal(logits, same)
    for own, label, sample in zip(logits, labels, samples):
        wanted = sample.seg_logits.data
        torch.testing.assert_close(own if classes > 1 else own.sigmoid(), wanted)
        assert torch.equal(label, sample.pred_sem_seg.data[0].long())
        assert label.unique().numel() > 1


@pytest.mark.parametrize(('crop', 'stride'), [((32, 48), (20, 31)), ((64, 96), (40, 40)), ((40, 200), (40, 100))])
def test_windows_are_those_of_the_library(crop, stride, images):
    net = segmentor(crop_size=crop, stride=stride)
    with torch.no_grad():
        net.test_cfg['mode'] = 'slide'
        logits, = SegmentorGraph(net, 'logits')(images)
        wanted = net.slide_inference(images, [dict(ori_shape=SIZE, img_shape=SIZE)] * 2)
    torch.testing.assert_close(logits, wanted)


def test_starts_of_windows():
    assert starts(10, 4, 3) == [(0, 4), (3, 7), (6, 10)]
    assert starts(11, 4, 3) == [(0, 4), (3, 7), (6, 10), (7, 11)]
    assert starts(3, 4, 3) == [(0, 3)]


def test_limits_of_a_head():
    assert DetectorGraph(detector('FCOS')).limits == (0.3, LIMITS['nms_pre'], 0.5, 20, False, 0)


@pytest.mark.parametrize('size', [1, 3, 6, (4, 13), (7, 10)])
def test_means_by_products_are_those_of_adaptive_pooling(size):
    x = torch.randn(2, 3, 7, 10)
    wanted = nn.functional.adaptive_avg_pool2d(x, size)
    torch.testing.assert_close(adaptive_means(x, size), wanted)
    with means_by_products():
        torch.testing.assert_close(nn.AdaptiveAvgPool2d(size)(x), wanted)
        assert nn.functional.adaptive_avg_pool2d is adaptive_means
    assert nn.functional.adaptive_avg_pool2d is not adaptive_means
