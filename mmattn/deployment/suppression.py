"""Suppression of overlapping boxes as one operator: mmcv's where PyTorch runs it, NonMaxSuppression in an ONNX file."""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op('mmattn::suppress', mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, overlap: float, most: int) -> Tensor:
    """The boxes that stay when each, the surest first, removes those that overlap it too much.

    Args:
        boxes: (B, N, 4) x1, y1, x2, y2; N is `most` or more.
        scores: (B, N); a box with a score of 0 is none.
        overlap: intersection over union above which a box goes.
        most: boxes that stay in an image.

    Returns:
        (B, most) int64 indices of the boxes, the surest first, then -1.
    """
    from mmcv.ops import nms
    kept = torch.full((len(boxes), most), -1, dtype=torch.int64, device=boxes.device)
    for row, own, sure in zip(kept, boxes, scores):
        places = sure.nonzero()[:, 0]
        if len(places):
            stay = places[nms(own[places], sure[places], overlap)[1][:most]]
            row[:len(stay)] = stay
    return kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, overlap: float, most: int) -> Tensor:
    return scores.new_empty((boxes.shape[0], most), dtype=torch.int64)


def translations() -> dict[Any, Callable[..., Any]]:
    """What PyTorch's exporter is to write for the operator. ONNX leaves the order of the boxes open; it is set here."""
    import onnxscript
    op: Any = onnxscript.opset18

    def write(boxes: Any, scores: Any, overlap: float, most: int) -> Any:
        found = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), op.Constant(value_ints=[most]),
                                     op.Constant(value_floats=[overlap]), op.Constant(value_floats=[0.0]))
        places = op.Slice(found, [0], [3], [1], [2])        # (K, 3) image, class, box -> (K, 2) image, box
        nothing = op.Mul(scores, 0.0)
        kept = op.ScatterND(nothing, places, op.GatherND(scores, places))
        values, indices = op.TopK(kept, [most], axis=1)
        return op.Where(op.Greater(values, 0.0), indices, op.Constant(value_int=-1))
    return {torch.ops.mmattn.suppress.default: write}
