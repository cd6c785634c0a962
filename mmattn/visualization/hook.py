from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from numpy.typing import NDArray

from mmattn.checks import check_at_least
from mmattn.errors import ArgumentError
from mmattn.registry import HOOKS
from mmattn.visualization.panels import Choice, Found, draw_grid, panels
from mmattn.visualization.recording import Record, record_attention


@HOOKS.register_module()
class AttentionVisualizationHook(Hook):
    """Draws what the model attends to in a few validation and test images, so that one can watch points move while it
    trains.

    The pictures go to every backend of MMEngine's visualizer (files below vis_data/vis_image, TensorBoard, …), as
    'attention_<name of the image>', numbered by the iteration.

    Args:
        interval: validations from one drawing to the next; with a validation after each epoch, epochs. Where the
            training stands counts, so that a resumed one draws in the same places; a validation without a training is
            always drawn.
        count: images, the first of as many batches.
        queries: (x, y) where in the image attention is drawn of, as shares of its width and height from 0 to 1.
        layers: regular expression that the address of a layer must match somewhere; '' draws the last of each kind in
            the stage with stride 16.
        most: points of a layer, those that receive most attention.
        score_thr: lowest score of a detection that is drawn.

    Raises:
        ArgumentError: an interval or count below 1, a query outside 0 to 1; while it runs, layers that match none.

    Example:
        In a config: `custom_hooks = [dict(type='mmattn.AttentionVisualizationHook', interval=5)]`.
    """
    priority = 'NORMAL'

    def __init__(self, interval: int = 1, count: int = 2, *, queries: Sequence[tuple[float, float]] = ((0.5, 0.5),),
                 layers: str = '', most: int = 300, score_thr: float = 0.3) -> None:
        for name, value in (('interval', interval), ('count', count)):
            check_at_least(name, value, 1)
        for query in queries:
            if not all(0 <= share <= 1 for share in query):
                raise ArgumentError(f'query (x, y) = {tuple(query)} must be shares of the width and height, from 0 to '
                                    '1')
        self.interval = interval
        self.count = count
        self.queries = queries
        self.layers = layers
        self.choice = Choice(every=bool(layers), most=most)
        self.score_thr = score_thr
        self._records: list[Record] | None = None

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if validation_number(runner) % self.interval == 0:
            self._record(runner, 'val_step', batch_idx, data_batch)

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._record(runner, 'test_step', batch_idx, data_batch)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._draw(runner, runner.val_dataloader.dataset, outputs)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._draw(runner, runner.test_dataloader.dataset, outputs)

    def _record(self, runner: Runner, name: str, batch_idx: int, batch: Any) -> None:
        """Let the next step of the model, and no other, be recorded."""
        if batch_idx >= self.count or not is_main_process():
            return
        height, width = batch['data_samples'][0].ori_shape
        queries = [(x * width, y * height) for x, y in self.queries]
        model = runner.model
        vars(model).pop(name, None)         # of a step that was never taken
        step = getattr(model, name)

        def recorded(data: Any) -> Any:
            vars(model).pop(name)           # the model's is that of its class again
            with record_attention(model, queries, self.layers, images=[0]) as records:
                outputs = step(data)
            self._records = records
            return outputs

        setattr(model, name, recorded)

    def _draw(self, runner: Runner, dataset: Any, outputs: Any) -> None:
        if self._records is None:
            return
        records, self._records = self._records, None
        path = outputs[0].img_path
        image = np.asarray(cv2.imread(path))[..., ::-1]
        meta = meta_of(dataset)
        found = Found(outputs[0], meta['classes'], score_thr=self.score_thr, palette=meta.get('palette'))
        figure = draw_grid(list(panels(image, found, {'model': records}, self.choice)), image.shape[:2])
        runner.visualizer.add_image(f'attention_{Path(path).stem}', pixels(figure), step=runner.iter)


def validation_number(runner: Runner) -> int:
    """Which validation of its training this is, from 1 and by where the training stands; 0 without a training."""
    loop = runner._train_loop       # `train_loop` would build one
    if not isinstance(loop, BaseLoop):
        return 0
    done = loop.iter if isinstance(loop, IterBasedTrainLoop) else loop.epoch
    return -(-done // getattr(loop, 'val_interval', 1))


def meta_of(dataset: Any) -> Mapping[str, Any]:
    """Names of the classes of a data set, and its palette, or of the first that it is made of and that says."""
    while not hasattr(dataset, 'metainfo'):
        dataset = dataset.dataset if hasattr(dataset, 'dataset') else dataset.datasets[0]
    said = dataset.metainfo
    return said[0] if isinstance(said, list) else said      # a list of mmdet's ConcatDataset


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
