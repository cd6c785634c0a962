from contextlib import contextmanager
from copy import deepcopy
from unittest.mock import patch

import pytest
import torch
from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.losses import CrossEntropyLoss, L1Loss
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.seg_heads import PanopticFPNHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.utils import multi_apply
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.models.decode_heads import FCNHead, decode_head, uper_head
from mmseg.models.losses import CrossEntropyLoss as PixelLoss
from mmseg.structures import SegDataSample
from torch import nn

from mmattn.engine.building import build_model
from mmattn.engine.non_finite import tensors
from mmattn.engine.precision import AmpOptimWrapper, keep_in_float32, widened
from tests.conftest import ROOT

BOTH = pytest.mark.parametrize('low', [torch.bfloat16, torch.float16], ids=str)


def test_weights_stay_in_float32_and_products_do_not(runner):
    seen = []
    training = runner(optim_wrapper=dict(type='mmattn.BFloat16OptimWrapper', accumulative_counts=2))
    training.model.first.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    training.train()
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}


@BOTH
def test_what_needs_float32_gets_and_gives_it(monkeypatch, low):
    seen = []

    class Part(nn.Module):
        def forward(self, x, pair=()):
            seen.append([t.dtype for t in (x, *pair)])
            return [x.to(low), (x.to(low), None)]

    class Head(Part):
        def loss(self):
            pass

    class Own(Head):
        """Of another package, derived from a head of mmdet."""

    x, whole = torch.ones(1, dtype=low), torch.ones(1, dtype=int)
    for room, kind, taken, given in (('mmcv.ops.roi_align', Part, torch.float32, low),
                                     ('mmseg.models.losses.dice_loss', Part, torch.float32, low),
                                     ('mmdet.models.dense_heads.rpn_head', Head, low, torch.float32),
                                     ('mmdet.models.dense_heads.rpn_head', Own, low, torch.float32),
                                     ('mmdet.models.roi_heads.bbox_heads.bbox_head', Head, low, torch.float32),
                                     ('mmdet.models.roi_heads.mask_heads.fcn_mask_head', Head, low, torch.float32),
                                     ('mmseg.models.decode_heads.uper_head', Head, low, torch.float32),
                                     ('mmseg.models.decode_heads.psp_head', Part, low, low),      # a part of a head
                                     ('mmdet.models.necks.fpn', Part, low, low)):
        with monkeypatch.context() as patched:
            patched.setattr(Head if kind is Own else kind, '__module__', room)
            part = kind()
            keep_in_float32(part)
            keep_in_float32(part)
        assert len(part._forward_pre_hooks) <= 1
        one, (other, none) = deepcopy(part)(x, pair=(x, whole))
        assert seen.pop() == [taken, taken, torch.int64]
        assert (one.dtype, other.dtype, none) == (given, given, None)


class Noting:
    """A head that notes the dtypes of what its loss gets."""

    scope = 'mmdet'
    more = ()           # that its loss is called with
    seen = None

    def loss_by_feat(self, *args, **kwargs):
        tensors = [t for arg in args for t in (arg if isinstance(arg, (list, tuple)) else [arg])]
        self.seen = {t.dtype for t in tensors if isinstance(t, torch.Tensor)}
        return {}


class Detecting(Noting, RetinaHead):
    def __init__(self):
        super().__init__(num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1)


class WithASecondTask(Detecting):
    """Has a layer of a name that mmseg gives to the last one."""

    def __init__(self):
        super().__init__()
        self.conv_seg = nn.Conv2d(8, 2, 1)


class MapByMap(Detecting):
    """Calls no `forward`."""

    def loss(self, x, batch_data_samples):
        return self.loss_by_feat(*multi_apply(self.forward_single, x))


class Segmenting(Noting, FCNHead):
    """Its last layer is one of its own; mmseg's constructor makes another."""

    scope = 'mmseg'
    more = ({},)

    def __init__(self):
        super().__init__(num_convs=1, in_channels=8, channels=8, num_classes=3, norm_cfg=None)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, inputs):
        return self.last(self._forward_feature(inputs))


class Panoptic(Noting, PanopticFPNHead):
    def __init__(self):
        super().__init__(num_things_classes=2, num_stuff_classes=2, in_channels=8, inner_channels=8, start_level=0,
                         end_level=1, conv_cfg=None, norm_cfg=None)

    def loss(self, x, batch_data_samples):
        return self.loss_by_feat(self.forward(x)['seg_preds'])      # as it is called in mmdet


@BOTH
@pytest.mark.parametrize('kind', [Detecting, WithASecondTask, MapByMap, Segmenting, Panoptic])
def test_heads_derived_from_those_of_the_libraries_give_float32(kind, low):
    with DefaultScope.overwrite_default_scope(kind.scope):
        head = kind()
    keep_in_float32(head)
    copy, x = deepcopy(head), [torch.ones(1, 8, 16, 16)]        # an average of weights keeps a copy
    for p in copy.parameters():
        p.data.zero_()
    for one in (head, copy):
        with torch.autocast('cpu', low):
            one.loss(x, [], *one.more)
            sizes = [t.abs().sum() for t in tensors(one.forward(x))]
        assert one.seen == {torch.float32}
        assert any(sizes) == (one is head)      # a copy computes with its own weights


def test_widening_keeps_what_it_does_not_know():
    text, double = 'a', torch.ones(1, dtype=torch.float64)
    assert widened([text, {'b': double}]) == [text, {'b': double}]


@contextmanager
def watched(*places):
    """The dtypes of the floating-point tensors that functions are called with, by name."""
    seen = {}

    def watch(name, function):
        def call(*args, **kwargs):
            parts = [*args, *kwargs.values()]
            tensors = [t for part in parts for t in (part if isinstance(part, (list, tuple)) else [part])]
            seen.setdefault(name, set()).update(t.dtype for t in tensors if isinstance(t, torch.Tensor) and
                                                t.is_floating_point())
            return function(*args, **kwargs)
        return call

    patches = [patch.object(owner, name, watch(f'{owner.__name__}.{name}', getattr(owner, name)))
               for owner, name in places]
    for one in patches:
        one.start()
    try:
        yield seen
    finally:
        for one in patches:
            one.stop()


def train_step_in_bfloat16(name, samples, image_size):
    """Losses of a training step of a demo's model, and of a test step, as under the optimizer wrapper."""
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / f'{name}.py')
    model = build_model(cfg).train()
    inputs = torch.randn(len(samples), 3, *image_size)
    # on a machine without a GPU, MMEngine's wrapper is built as if there were one, and bfloat16 stands in
    with (patch.object(amp_optimizer_wrapper, 'is_cuda_available', lambda: True),
          pytest.warns(UserWarning, match='cuda')):
        wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), dtype='bfloat16')
    with wrapper.optim_context(model):
        losses = model.loss(inputs, samples)
        model.eval()
        with torch.no_grad():
            model.predict(inputs, samples)
    total = sum(value.sum() for key, values in losses.items() if 'loss' in key
                for value in (values if isinstance(values, list) else [values]))
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    return losses


def test_a_two_stage_detector_is_float32_where_mmdet_2_was():
    size = (64, 80)
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
                                             scale_factor=(1., 1.)))
        masks = torch.zeros(1, *size, dtype=torch.uint8)
        masks[:, 10:40, 10:50] = 1
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[10., 10., 50., 40.]]), labels=torch.tensor([1]),
                                           masks=BitmapMasks(masks.numpy(), *size))
        samples.append(sample)
    places = [(SingleRoIExtractor, 'forward'), (RoIAlign, 'forward'), (DeltaXYWHBBoxCoder, 'decode'),
              (CrossEntropyLoss, 'forward'), (L1Loss, 'forward'), (RPNHead, '_predict_by_feat_single'),
              (RPNHead, 'loss_by_feat'), (BBoxHead, 'loss_and_target'), (BBoxHead, '_predict_by_feat_single'),
              (FCNMaskHead, 'loss_and_target'), (FCNMaskHead, '_predict_by_feat_single')]
    low = []
    with watched(*places) as seen, patch.object(nn.Linear, 'forward', lambda self, x: low.append(
            nn.functional.linear(x, self.weight, self.bias)) or low[-1]):
        losses = train_step_in_bfloat16('mask-rcnn_dat_scenes', samples, size)
    assert seen == {f'{owner.__name__}.{name}': {torch.float32} for owner, name in places}
    assert torch.bfloat16 in {x.dtype for x in low}         # the products are not
    assert {value.dtype for values in losses.values() for value in (values if isinstance(values, list) else [values])
            } == {torch.float32}


def test_logits_of_a_segmentor_are_resized_in_float32_as_in_mmseg_0():
    size, samples = (64, 80), []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.randint(5, (1, *size)))
        samples.append(sample)
    with watched((PixelLoss, 'forward'), (decode_head, 'resize'), (uper_head, 'resize')) as seen:
        train_step_in_bfloat16('upernet_dat_scenes', samples, size)
    assert seen['CrossEntropyLoss.forward'] == {torch.float32}
    assert seen['mmseg.models.decode_heads.decode_head.resize'] == {torch.float32}
    assert seen['mmseg.models.decode_heads.uper_head.resize'] == {torch.bfloat16}       # of features
