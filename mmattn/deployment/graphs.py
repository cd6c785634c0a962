"""What an exported file computes, as modules: from a prepared image to what a detector or a segmentor of the libraries
predicts, without what depends on the image before its preparation."""
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmattn.deployment.suppression import suppress
from mmattn.errors import UsageError

MOST = 300      # detections of an image where the test_cfg of a model does not say
EXPORTABLE = ('segmentors of mmseg and single-stage detectors whose head decodes as that of RetinaNet, RTMDet, YOLOX, '
              'FCOS, ATSS or GFL does')


class Level(NamedTuple):
    """The locations of a level: boxes (B, N, 4) x1, y1, x2, y2 in pixels of the input, scores (B, N, classes) and what
    they are multiplied by after the threshold, (B, N)."""
    boxes: Tensor
    scores: Tensor
    factors: Tensor | None


class Candidates(NamedTuple):
    """Boxes (B, N, 4) with scores (B, N), 0 for none, and labels (B, N)."""
    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Limits(NamedTuple):
    """Of the detections of an image, as the test_cfg of a model has them.

    Args:
        score: lowest score; `nms_pre` pairs of a box and a class of each level are looked at, -1 for all.
        overlap: intersection over union above which the less sure box of a class goes.
        most: detections.
        class_agnostic: boxes of all classes remove each other.
        least_side: boxes that are not wider and higher go; negative for none.
    """
    score: float
    nms_pre: int
    overlap: float
    most: int
    class_agnostic: bool
    least_side: float


def limits_of(head: Any, raw: bool) -> Limits:
    """The limits of a head.

    Raises:
        UsageError: it suppresses in another way than by a threshold of the overlap.
    """
    settings = head.test_cfg or {}
    rules = dict(settings.get('nms') or {})
    known = {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
    if not raw and (rules.get('type', 'nms') != 'nms' or set(rules) - known or 'iou_threshold' not in rules):
        raise UsageError(f"test_cfg.nms={rules} cannot be exported, dict(type='nms', iou_threshold=…) can; --raw "
                         'leaves it out')
    most = settings.get('max_per_img') or MOST
    return Limits(float(settings.get('score_thr') or 0), settings.get('nms_pre') or -1,
                  float(rules.get('iou_threshold', 1)), most if most > 0 else MOST, bool(rules.get('class_agnostic')),
                  settings.get('min_bbox_size', -1))


def by_location(x: Tensor, channels: int) -> Tensor:
    """(B, A * channels, H, W) -> (B, H * W * A, channels)."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, channels)


def priors_of(head: Any, maps: Sequence[Tensor], **options: Any) -> Any:
    """The anchors or points of each level."""
    return head.prior_generator.grid_priors([x.shape[-2:] for x in maps], dtype=maps[0].dtype, device=maps[0].device,
                                            **options)


def coded(head: Any, priors: Tensor, codes: Tensor, image: Tensor) -> Tensor:
    """Boxes (B, N, 4) of priors (N, 2 or 4) and of what was predicted for them, (B, N, D), cut at the image's edges."""
    batch, count, size = codes.shape
    priors = priors.expand(batch, *priors.shape).reshape(batch * count, -1)
    boxes = head.bbox_coder.decode(priors, codes.reshape(batch * count, size)).reshape(batch, count, 4)
    if not getattr(head.bbox_coder, 'clip_border', True):
        return boxes
    height, width = image.shape[-2:]
    return torch.stack([boxes[..., 0].clamp(0, width), boxes[..., 1].clamp(0, height),
                        boxes[..., 2].clamp(0, width), boxes[..., 3].clamp(0, height)], -1)


def activated(head: Any, scores: Tensor) -> Tensor:
    """Scores of the classes without the background."""
    scores = by_location(scores, head.cls_out_channels)
    return scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]


def base_levels(head: Any, image: Tensor, scores: Sequence[Tensor], codes: Sequence[Tensor],
                factors: Sequence[Tensor] | None = None) -> list[Level]:
    """Heads that decode as RetinaNet, FCOS and ATSS do."""
    size = head.bbox_coder.encode_size
    chances = [by_location(factor, 1)[..., 0].sigmoid() for factor in factors] if factors else [None] * len(scores)
    return [Level(coded(head, priors, by_location(code, size), image), activated(head, score), chance)
            for priors, score, code, chance in zip(priors_of(head, scores), scores, codes, chances)]


def gfl_levels(head: Any, image: Tensor, scores: Sequence[Tensor], codes: Sequence[Tensor]) -> list[Level]:
    """GFL: a distribution over the distance to each edge."""
    levels = []
    for priors, score, code, stride in zip(priors_of(head, scores), scores, codes, head.prior_generator.strides):
        distances = by_location(code, 4 * (head.reg_max + 1))
        distances = head.integral(distances).reshape(*distances.shape[:2], 4) * stride[0]
        levels.append(Level(coded(head, head.anchor_center(priors), distances, image),
                            by_location(score, head.cls_out_channels).sigmoid(), None))
    return levels


def yolox_levels(head: Any, image: Tensor, scores: Sequence[Tensor], codes: Sequence[Tensor],
                 factors: Sequence[Tensor]) -> list[Level]:
    """YOLOX: boxes are not cut at the edges."""
    levels = []
    for priors, score, code, factor in zip(priors_of(head, scores, with_stride=True), scores, codes, factors):
        levels.append(Level(head._bbox_decode(priors, by_location(code, 4)),
                            by_location(score, head.cls_out_channels).sigmoid(),
                            by_location(factor, 1)[..., 0].sigmoid()))
    return levels


LEVELS: dict[str, Callable[..., list[Level]]] = {       # by the class that defines how a head predicts
    'BaseDenseHead': base_levels, 'GFLHead': gfl_levels, 'YOLOXHead': yolox_levels}


def decoder_of(net: Any) -> Callable[..., list[Level]]:
    """How the head of a detector decodes.

    Raises:
        UsageError: it is no detector that can be exported.
    """
    from mmdet.models.detectors import SingleStageDetector
    kind, head = type(net).__name__, getattr(net, 'bbox_head', net)
    if not isinstance(net, SingleStageDetector) or type(net).predict is not SingleStageDetector.predict:
        raise UsageError(f'{kind} cannot be exported; {EXPORTABLE} can')
    if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False):
        raise UsageError(f'{kind} cannot be exported with {type(head.loss_cls).__name__}, which has scores of its own')
    places = {defined_by(head, method) for method in ('predict', 'predict_by_feat', '_predict_by_feat_single',
                                                      '_bbox_post_process')} - {'BaseDenseHead'}
    if len(places) > 1 or places - set(LEVELS):
        raise UsageError(f'{kind} with {type(head).__name__} cannot be exported; {EXPORTABLE} can')
    return LEVELS[places.pop() if places else 'BaseDenseHead']


def defined_by(target: Any, method: str) -> str:
    """The name of the class that gives an object a method."""
    return next(kind.__name__ for kind in type(target).__mro__ if method in vars(kind))


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """x (B, N, D) at an index (B, K): (B, K, D)."""
    return x.gather(1, index[..., None].expand(*index.shape, x.shape[-1]))


def longer(x: Tensor, count: int) -> Tensor:
    """x (B, N, …) with `count` rows of zeros behind it."""
    return torch.cat([x, x.new_zeros((x.shape[0], count, *x.shape[2:]))], 1)


class DetectorGraph(nn.Module):
    """A single-stage detector: image (B, 3, H, W), prepared, to boxes (B, M, 4), scores (B, M) and labels (B, M), the
    surest first, then boxes and scores of 0 and labels of -1; or before suppression, with `raw`, to boxes (B, N, 4) and
    scores (B, N, classes).

    Args:
        net: the detector.
        raw: leave out thresholds and suppression; of each level, the `nms_pre` locations with the highest scores stay.
        dynamic: the graph is recorded with a free height and width.
        maps: behind these outputs, give the maps of the head too, which a check can compare number by number.

    Raises:
        UsageError: a detector that cannot be exported, or a suppression.
    """

    def __init__(self, net: Any, raw: bool = False, dynamic: bool = False, maps: bool = False) -> None:
        super().__init__()
        self.decode = decoder_of(net)
        self.net = net
        self.raw = raw
        self.dynamic = dynamic
        self.maps = maps
        self.limits = limits_of(net.bbox_head, raw)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return ['boxes', 'scores'] if self.raw else ['boxes', 'scores', 'labels']

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.net.bbox_head(self.net.extract_feat(image))
        levels = self.decode(self.net.bbox_head, image, *maps)
        outputs = self.locations(levels) if self.raw else self.detections(levels)
        return (*outputs, *(x for level in maps for x in level)) if self.maps else outputs

    def detections(self, levels: Sequence[Level]) -> tuple[Tensor, ...]:
        """Boxes, scores and labels after suppression."""
        choose = self.surest_class if self.decode is yolox_levels else self.surest_pairs
        return self.suppressed(Candidates(*(torch.cat(parts, 1) for parts in zip(*map(choose, levels)))))

    def most_of(self, x: Tensor) -> Tensor:
        """The indices of the `nms_pre` highest of x (B, N), or all where there are no more."""
        if self.limits.nms_pre < 0 or (not self.dynamic and self.limits.nms_pre >= x.shape[1]):
            return torch.arange(x.shape[1], device=x.device).expand(*x.shape)
        return x.topk(self.limits.nms_pre)[1]

    def locations(self, levels: Sequence[Level]) -> tuple[Tensor, Tensor]:
        """Boxes and scores of the classes, the factors multiplied in."""
        found = []
        for boxes, scores, factors in map(self.lengthened, levels):
            sure = scores if factors is None else scores * factors[..., None]
            index = self.most_of(sure.amax(-1))
            found.append((gathered(boxes, index), gathered(sure, index)))
        return torch.cat([boxes for boxes, _ in found], 1), torch.cat([scores for _, scores in found], 1)

    def lengthened(self, level: Level) -> Level:
        """With a free size, a level with `nms_pre` boxes and scores of 0 behind it, so that so many can be chosen."""
        if not self.dynamic or self.limits.nms_pre < 0:
            return level
        count, (boxes, scores, factors) = self.limits.nms_pre, level
        return Level(longer(boxes, count), longer(scores, count), None if factors is None else longer(factors, count))

    def surest_pairs(self, level: Level) -> Candidates:
        """Pairs of a box and a class: above the threshold, then multiplied by the factor."""
        boxes, scores, factors = self.lengthened(level)
        flat, classes = scores.flatten(1), scores.shape[-1]
        index = self.most_of(flat)
        chosen, places = flat.gather(1, index), index // classes
        found = gathered(boxes, places)
        valid = chosen > self.limits.score
        if self.limits.least_side >= 0:
            valid = valid & (found[..., 2:] - found[..., :2] > self.limits.least_side).all(-1)
        if factors is not None:
            chosen = chosen * factors.gather(1, places)
        return Candidates(found, torch.where(valid, chosen, 0.0), index % classes)

    def surest_class(self, level: Level) -> Candidates:
        """Each box with its surest class, as YOLOX has it: the threshold is for the product."""
        assert level.factors is not None
        scores, labels = level.scores.max(-1)
        scores = scores * level.factors
        return Candidates(level.boxes, torch.where(scores >= self.limits.score, scores, 0.0), labels)

    def suppressed(self, found: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """The detections; boxes of other classes are moved away from each other, as mmcv moves them."""
        most = self.limits.most
        if self.dynamic or found.scores.shape[1] < most:
            found = Candidates(*(longer(x, most) for x in found))
        boxes, scores, labels = found
        moved = boxes
        if not self.limits.class_agnostic:
            valid = (scores > 0)[..., None]
            step = torch.where(valid, boxes, 0.0).amax((1, 2), keepdim=True) + 1
            moved = boxes + labels[..., None] * step
        index = suppress(moved, scores, self.limits.overlap, most)
        some, index = index >= 0, index.clamp(min=0)
        boxes, scores = gathered(boxes, index) * some[..., None], scores.gather(1, index) * some
        return boxes, scores, torch.where(some, labels.gather(1, index), -1)


@contextmanager
def means_by_products() -> Iterator[None]:
    """Let PyTorch record the adaptive pooling of pyramid pooling as products with matrices that it makes for any size;
    as its own operator, the graph would hold the bins of one size."""
    pool = F.adaptive_avg_pool2d
    F.adaptive_avg_pool2d = adaptive_means      # type: ignore[assignment]
    try:
        yield
    finally:
        F.adaptive_avg_pool2d = pool


def adaptive_means(x: Tensor, output_size: int | Sequence[int]) -> Tensor:
    """`F.adaptive_avg_pool2d` of x (B, C, H, W): the means of `output_size` bins along each side."""
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    return bins(x.shape[2], rows, x) @ x @ bins(x.shape[3], columns, x).mT


def bins(side: int, count: int, like: Tensor) -> Tensor:
    """(count, side) weights of the pixels of each bin; neighbouring bins share a pixel where they do not fit."""
    place, index = torch.arange(side, device=like.device), torch.arange(count, device=like.device)[:, None]
    inside = ((place >= index * side // count) & (place < ((index + 1) * side + count - 1) // count)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class SegmentorGraph(nn.Module):
    """A segmentor: image (B, 3, H, W), prepared, to logits (B, classes, H, W) or labels (B, H, W).

    Args:
        net: the segmentor; with test_cfg.mode='slide' its windows are in the graph.
        output: 'labels' or 'logits'.
        maps: behind labels, give the logits too.

    Raises:
        UsageError: it is no segmentor of mmseg.
    """

    def __init__(self, net: Any, output: str = 'labels', maps: bool = False) -> None:
        super().__init__()
        if not hasattr(net, 'encode_decode'):
            raise UsageError(f'{type(net).__name__} cannot be exported; {EXPORTABLE} can')
        self.net = net
        self.outputs = [output]
        self.maps = maps
        self.slides = net.test_cfg.get('mode', 'whole') == 'slide'

    @property
    def threshold(self) -> float:
        """Of the probability of the foreground, where there is one class."""
        head = self.net.decode_head
        return float(getattr(head[-1] if isinstance(head, nn.ModuleList) else head, 'threshold', None) or 0.5)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.windows(image) if self.slides else self.logits(image)
        if self.outputs == ['logits']:
            return logits,
        labels = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0].sigmoid() > self.threshold).to(torch.int64)
        return (labels, logits) if self.maps else (labels,)

    def logits(self, image: Tensor) -> Tensor:
        """At the size of the image."""
        size = image.shape[2:]
        return self.net.encode_decode(image, [dict(img_shape=size, pad_shape=size, ori_shape=size)] * len(image))

    def windows(self, image: Tensor) -> Tensor:
        """The mean over windows that overlap."""
        height, width = image.shape[2:]
        rows, columns = (starts(*sides) for sides in zip((height, width), self.net.test_cfg.crop_size,
                                                          self.net.test_cfg.stride))
        total, count = [torch.zeros(())] * 2
        for top, bottom in rows:
            for left, right in columns:
                logits = self.logits(image[:, :, top:bottom, left:right])
                around = left, width - right, top, height - bottom
                total = total + F.pad(logits, around)
                count = count + F.pad(torch.ones_like(logits[:1, :1]), around)
        return total / count


def starts(side: int, window: int, stride: int) -> list[tuple[int, int]]:
    """The first row of each window and the row behind it, along a side; the last window ends with it."""
    ends = [min(i * stride + window, side) for i in range(max(side - window + stride - 1, 0) // stride + 1)]
    return [(max(end - window, 0), end) for end in ends]
