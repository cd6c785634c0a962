"""One training step and one prediction of a detector or a segmentor on two random images."""
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample


def batch(scope, with_masks, size=(64, 64), with_proposals=False):
    """Two random images with two boxes, or a label map, as a data loader of the library gives them. Beside the boxes
    there is a label map, which few detectors ask for; proposals take the place of those that a detector makes."""
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(2)]
    metainfo = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1., 1.),
                    border=np.array([0, size[0], 0, size[1]]))
    if scope == 'mmseg':
        return dict(inputs=inputs, data_samples=[SegDataSample(metainfo=metainfo, gt_sem_seg=PixelData(
            data=torch.randint(5, (1, *size)))) for _ in inputs])
    samples = [DetDataSample(
        metainfo=metainfo, gt_instances=instances(2, with_masks, size),
        ignored_instances=instances(0, with_masks, size),
        gt_sem_seg=PixelData(sem_seg=torch.randint(5, (1, *size)))) for _ in inputs]
    if with_proposals:
        for sample in samples:
            sample.proposals = InstanceData(bboxes=torch.tensor([[6., 6., 36., 44.], [20., 20., 60., 60.]]))
    return dict(inputs=inputs, data_samples=samples)


def instances(count, with_masks, size):
    """The first of two boxes, with masks of the same extent if they are wanted."""
    found = InstanceData(bboxes=torch.tensor([[8., 8., 40., 40.], [30., 20., 60., 50.]])[:count],
                         labels=torch.zeros(count, dtype=torch.long))
    if with_masks:
        masks = np.zeros((2, *size), np.uint8)
        masks[0, 8:40, 8:40] = masks[1, 20:50, 30:60] = 1
        found.masks = BitmapMasks(masks[:count], *size)
    return found


def train_once(model, data, scope):
    """The losses of a batch by their names, after a backward pass of their sum in training."""
    model.train()
    with DefaultScope.overwrite_default_scope(scope):
        data = model.data_preprocessor(data, training=True)
        losses = model(**data, mode='loss')
        total, found = model.parse_losses(losses)
    total.backward()
    return found


def predict_once(model, data, scope):
    """A sample for each image of a batch, with what the model finds there."""
    model.eval()
    with DefaultScope.overwrite_default_scope(scope), torch.no_grad():
        return model.test_step(data)


def without_gradient(model):
    """Names of the parameters that want a gradient and have none that is finite."""
    return [name for name, p in model.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())]
