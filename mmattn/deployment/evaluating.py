"""An exported file in the place of a model, so that the data and the evaluator of a config measure it."""
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData, PixelData
from torch import Tensor
from torch.nn import functional as F

from mmattn.config import is_segmentation
from mmattn.deployment.runtime import OnnxModel
from mmattn.errors import UsageError
from mmattn.registry import MODELS


def put_in(cfg: Config, file: str) -> None:
    """Let an exported file predict in the place of the model of a config, behind its pipeline and data preprocessor.

    Raises:
        UsageError: it is of another task, or before suppression.
    """
    described = OnnxModel(file).description
    task = 'segmentation' if is_segmentation(cfg) else 'detection'
    if described.task != task:
        raise UsageError(f'{file} is for {described.task}, and the config for {task}')
    if all(output['name'] not in ('labels', 'logits') for output in described.outputs):
        raise UsageError(f'{file} was exported with --raw: its boxes are not suppressed, so they cannot be evaluated')
    cfg.model = dict(type='mmattn.ExportedModel', file=file,
                     data_preprocessor=cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor'))


@MODELS.register_module()
class ExportedModel(BaseModel):
    """A model in an ONNX file, which runs in onnxruntime.

    Args:
        file: written by `mmattn export`.
        data_preprocessor: config of the model's.
    """

    def __init__(self, file: str, data_preprocessor: dict[str, Any]) -> None:
        super().__init__(data_preprocessor)
        self.model = OnnxModel(file)

    def forward(self, inputs: Tensor, data_samples: list[Any], mode: str = 'predict') -> list[Any]:
        """The samples with what the file predicts for images (B, 3, H, W)."""
        if mode != 'predict':
            raise ValueError(f'mode={mode!r}: an exported file predicts, and does no more')
        most = self.model.description.input['shape'][0]
        batches = [self.model.run(part.cpu().numpy()) for part in inputs.split(most)]
        outputs = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for i, sample in enumerate(data_samples):
            own = {name: torch.from_numpy(output[i]) for name, output in outputs.items()}
            if self.model.description.task == 'segmentation':
                add_labels(sample, own, inputs.shape[2:], self.model.description.lowest_logit)
            else:
                add_detections(sample, own)
        return data_samples


def add_detections(sample: Any, outputs: dict[str, Tensor]) -> None:
    """Put the detections of an image into its sample, in pixels of the original image."""
    found = outputs['labels'] >= 0
    height, width = sample.img_shape[:2]
    boxes = outputs['boxes'][found]
    boxes = torch.stack([boxes[:, 0].clamp(0, width), boxes[:, 1].clamp(0, height),
                         boxes[:, 2].clamp(0, width), boxes[:, 3].clamp(0, height)], -1)
    sample.pred_instances = InstanceData(bboxes=boxes / boxes.new_tensor(sample.scale_factor).repeat(2),
                                         scores=outputs['scores'][found], labels=outputs['labels'][found])


def add_labels(sample: Any, outputs: dict[str, Tensor], size: torch.Size, lowest_logit: float) -> None:
    """Put the label map of an image into its sample, at the size of the original image."""
    left, right, top, bottom = sample.get('img_padding_size', sample.get('padding_size', [0] * 4))
    rows, columns = slice(top, size[0] - bottom), slice(left, size[1] - right)
    if 'labels' in outputs:
        maps = outputs['labels'][None, None, rows, columns].float()
        labels = F.interpolate(maps, tuple(sample.ori_shape[:2]), mode='nearest')[0].long()
    else:
        maps = outputs['logits'][None, :, rows, columns]
        logits = F.interpolate(maps, tuple(sample.ori_shape[:2]), mode='bilinear', align_corners=False)[0]
        labels = logits.argmax(0, keepdim=True) if len(logits) > 1 else (logits > lowest_logit).long()
        sample.set_data(dict(seg_logits=PixelData(data=logits)))
    sample.set_data(dict(pred_sem_seg=PixelData(data=labels)))
