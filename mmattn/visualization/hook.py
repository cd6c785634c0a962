from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from mmattn.registry import HOOKS
from mmattn.visualization.panels import Choice, Found, draw_grid, panels
from mmattn.visualization.recording import record_attention


@HOOKS.register_module()
class AttentionVisualizationHook(Hook):
    """Draws what the model attends to in a few validation and test images, so that one can watch points move while it
    trains.

    The pictures go to every backend of MMEngine's visualizer (files below vis_data/vis_image, TensorBoard, …), as
    'attention_<name of the image>', numbered by the iteration.

    Args:
        interval (int): validations from one drawing to the next; with a validation after each epoch, epochs.
        count (int): images, the first of as many batches.
        queries (Sequence[tuple[float, float]]): where in the image attention is drawn of, as shares of its width and
            height from 0 to 1.
        layers (str): regular expression that the address of a layer must match somewhere; '' draws the last of each
            kind in the stage with stride 16.
        most (int): points of a layer, those that receive most attention.
        score_thr (float): lowest score of a detection that is drawn.

    Raises:
        ValueError: an interval or count below 1, a query outside 0 to 1; while it runs, layers that match none.

    Example:
        In a config: `custom_hooks = [dict(type='mmattn.AttentionVisualizationHook', interval=5)]`.
    """
    priority = 'NORMAL'

    def __init__(self, interval=1, count=2, queries=((0.5, 0.5),), layers='', most=300, score_thr=0.3):
        for name, value in (('interval', interval), ('count', count)):
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1')
        outside = [query for query in queries if not all(0 <= share <= 1 for share in query)]
        if outside:
            raise ValueError(f'query (x, y) = {tuple(outside[0])} must be shares of the width and height, from 0 to 1')
        self.interval = interval
        self.count = count
        self.queries = queries
        self.layers = layers
        self.choice = Choice(every=bool(layers), most=most)
        self.score_thr = score_thr
        self._validations = 0
        self._recording = None

    def before_val_epoch(self, runner):
        self._validations += 1

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self._validations % self.interval == 0:
            self._start(runner, batch_idx, data_batch)

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        self._start(runner, batch_idx, data_batch)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._draw(runner, runner.val_dataloader.dataset, outputs)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._draw(runner, runner.test_dataloader.dataset, outputs)

    def _start(self, runner, batch_idx, batch):
        if batch_idx >= self.count or not is_main_process():
            return
        height, width = batch['data_samples'][0].ori_shape
        queries = [(x * width, y * height) for x, y in self.queries]
        context = record_attention(runner.model, queries, self.layers, images=[0])
        self._recording = context, context.__enter__()

    def _draw(self, runner, dataset, outputs):
        if self._recording is None:
            return
        (context, records), self._recording = self._recording, None
        context.__exit__(None, None, None)
        path = outputs[0].img_path
        image = cv2.imread(path)[..., ::-1]
        found = Found(outputs[0], dataset.metainfo['classes'], score_thr=self.score_thr)
        figure = draw_grid(list(panels(image, found, {'model': records}, self.choice)), image.shape[:2])
        runner.visualizer.add_image(f'attention_{Path(path).stem}', pixels(figure), step=runner.iter)


def pixels(figure):
    """(H, W, 3) uint8 RGB of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
