"""Whole detectors and segmentors timed in processes of their own: python -m mmattn.measuring.latency runs one."""
import json
import statistics
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmattn.config import read_config
from mmattn.datasets.batch import quiet
from mmattn.datasets.loading import decode, reason
from mmattn.engine.building import load_model
from mmattn.errors import UsageError
from mmattn.measuring.timing import apart, memory, seconds

SMALL = 64      # side of the image that loads libraries and kernels before memory is measured


@dataclass
class Latency:
    """What is measured; see the options of `mmattn benchmark`."""
    config: str
    checkpoint: str
    image: str | None
    size: tuple[int, int]
    batch: int
    device: str
    iterations: int
    options: dict[str, Any] = field(default_factory=dict)


def measure(task: Latency) -> dict[str, Any]:
    """Time and peak memory of a test step in this process.

    A step takes images of the given size, uint8 and on the CPU, as the loader gives them: it moves and normalizes them,
    runs the network, and makes boxes, masks or label maps of what comes out. Reading and resizing are not in it.

    Returns:
        'threads', 'seconds', 'bytes' beyond those of the model, 'found': detections in a step, 0 in segmentation.
    """
    cfg = read_config(task.config, task.options)
    with quiet(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = load_model(cfg, task.checkpoint, task.device)
        device = torch.device(task.device)

        def step(image: Tensor) -> list[Any]:
            with torch.no_grad():
                return model.test_step(batch_of(image, task.batch, cfg.default_scope))

        image = read_image(task.image, task.size)
        step(image[:, :SMALL, :SMALL])
        before = memory(device, reset=True)
        found = step(image)
        used = memory(device) - before
        times = [seconds(lambda: step(image), device) for _ in range(task.iterations)]
    return dict(threads=torch.get_num_threads(), seconds=statistics.median(times), bytes=used,
                found=sum(len(sample.get('pred_instances', ())) for sample in found))


def read_image(path: str | None, size: tuple[int, int]) -> Tensor:
    """An image of a size, (3, H, W) uint8 in BGR; random numbers without a path."""
    if path is None:
        torch.manual_seed(0)
        return torch.randint(256, (3, *size), dtype=torch.uint8)
    pixels = np.array(decode(path).convert('RGB').resize(size[::-1]))
    return torch.from_numpy(pixels).flip(2).permute(2, 0, 1).contiguous()


def batch_of(image: Tensor, count: int, scope: str) -> dict[str, list[Any]]:
    """An image so many times, as a data loader gives it to a model of mmdet or mmseg."""
    if scope == 'mmseg':
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    size = tuple(image.shape[1:])
    meta = dict(img_path='', img_id=0, img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), flip=False)
    return dict(inputs=[image.clone() for _ in range(count)],
                data_samples=[Sample(metainfo=meta) for _ in range(count)])


def measure_apart(task: Latency, repeat: int) -> dict[str, Any]:
    """The medians of what `measure` gives over so many processes.

    Raises:
        UsageError: the model cannot be built or run.
    """
    try:
        read_image(task.image, task.size)
    except (OSError, ValueError) as error:
        raise UsageError(f'{task.image} cannot be read: {reason(error)}') from error
    results = [apart('mmattn.measuring.latency', asdict(task)) for _ in range(repeat)]
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


if __name__ == '__main__':
    print(json.dumps(measure(Latency(**json.loads(sys.argv[1])))))
