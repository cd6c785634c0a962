from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine import dataset as mmengine_dataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseDataPreprocessor
from mmengine.runner import EpochBasedTrainLoop
from mmengine.structures import PixelData
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from torch.utils import data

from mmattn.errors import ArgumentError
from mmattn.visualization import hook
from mmattn.visualization.hook import AttentionVisualizationHook, meta_of, validation_number
from tests.engine.conftest import Net, Numbers, build
from tests.models import small_bi


class Images(mmengine_dataset.BaseDataset):
    METAINFO = {'classes': ('a', 'b')}

    def load_data_list(self):
        return [{}, {}]

    def prepare_data(self, index):
        size = dict(ori_shape=(64, 96), img_path=self.ann_file)
        return {'inputs': torch.full((3, 64, 96), float(index)), 'data_samples': SegDataSample(metainfo=size)}


class Stack(BaseDataPreprocessor):
    def forward(self, data, training=False):
        return {**super().forward(data), 'inputs': torch.stack(list(data['inputs']))}


class Segmentor(Net):
    """Trains on numbers; its validation attends to images, or fails."""

    fails = False

    def __init__(self):
        super().__init__()
        self.data_preprocessor = Stack()
        self.backbone = small_bi()

    def forward(self, inputs, data_samples=(), mode='tensor'):
        if mode != 'predict':
            return super().forward(inputs, mode)
        self.backbone(inputs)
        if self.fails:
            raise InterruptedError
        for sample in data_samples:
            sample.pred_sem_seg = PixelData(data=torch.ones(1, 64, 96, dtype=int))
        return data_samples


class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return {'count': len(results)}


@pytest.fixture
def prepare(tmp_path):
    """Build a runner that validates two images of a batch each after every step."""
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.full((64, 96, 3), 128, np.uint8))

    def call(folder, *, resume=False, wrap=lambda dataset: dataset, max_iters=6, **options):
        validation = dict(
            val_dataloader=dict(batch_size=1, num_workers=0, dataset=wrap(Images(str(path))),
                                sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(), val_evaluator=Evaluator(Count(prefix='of')),
            custom_hooks=[dict(type='mmattn.AttentionVisualizationHook', **options)])
        return build(tmp_path / folder, Segmentor(), resume=resume, more=validation,
                     train_cfg=dict(val_interval=1, max_iters=max_iters))
    return call


@pytest.fixture
def steps(monkeypatch):
    """The iterations after which something was drawn; nothing is."""
    drawn = []
    monkeypatch.setattr(hook, 'draw_grid', lambda pictures, size: Figure())
    monkeypatch.setattr(Visualizer, 'add_image', lambda self, name, image, step: drawn.append(step))
    return drawn


def test_pictures_are_drawn_during_a_training(prepare, tmp_path):
    runner = prepare('whole', interval=2, count=1, max_iters=2)
    runner.train()
    picture, = tmp_path.rglob('attention_*.png')
    assert picture.name == 'attention_image_2.png'
    assert cv2.imread(str(picture)).std() > 10


def test_a_resumed_training_draws_where_another_does(prepare, steps):
    prepare('whole', interval=2).train()
    assert steps == [2, 2, 4, 4, 6, 6]
    steps.clear()
    prepare('resumed', interval=2, count=1, max_iters=3).train()
    prepare('resumed', interval=2, count=1, resume=True).train()
    assert steps == [2, 4, 6]


def test_a_validation_without_a_training_is_drawn(prepare, steps):
    runner = prepare('alone', interval=3, count=1)
    runner.val()
    runner.val()
    assert steps == [0, 0]


def test_validations_of_epochs():
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    numbers = []
    for loop._epoch in (3, 6, 7):       # the last one is the end of the training
        loop.val_interval = 3
        numbers.append(validation_number(SimpleNamespace(_train_loop=loop)))
    assert numbers == [1, 2, 3]
    assert validation_number(SimpleNamespace(_train_loop={'max_epochs': 3})) == 0


def test_a_step_that_fails_leaves_nothing_behind(prepare, steps):
    runner = prepare('failing')
    before = vars(runner.model).keys() - {'fails'}
    runner.model.fails = True
    with pytest.raises(InterruptedError):
        runner.val()
    assert vars(runner.model).keys() - {'fails'} == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in runner.model.modules())
    runner.model.fails = False
    runner.val()
    assert steps == [0, 0]


def test_a_step_that_is_never_taken_is_forgotten(prepare, steps):
    runner = prepare('skipping')
    drawing, = (one for one in runner.hooks if isinstance(one, AttentionVisualizationHook))
    for batch in runner.val_dataloader:     # as if another hook ended the validation, twice
        drawing.before_val_iter(runner, 0, batch)
    runner.val()
    assert steps == [0, 0]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in runner.model.modules())


@pytest.mark.parametrize('wrap', [
    lambda images: mmengine_dataset.ConcatDataset([images, images]),
    lambda images: data.ConcatDataset([images, images]), lambda images: data.Subset(images, [0, 1]),
], ids=['ConcatDataset', 'ConcatDataset of torch', 'Subset'])
def test_wrapped_data_sets_are_drawn(prepare, tmp_path, wrap):
    prepare('wrapped', wrap=wrap, count=1).val()
    assert len(list(tmp_path.rglob('attention_*.png'))) == 1


def test_names_of_the_classes_of_wrapped_data_sets():
    class Several(Numbers):
        metainfo = [{'classes': ('a',)}, {'classes': ('b',)}]
    assert meta_of(Several())['classes'] == ('a',)
    images = Images('')
    for wrapper in (mmengine_dataset.RepeatDataset(images, 2), data.Subset(data.Subset(images, [0]), [0]), images):
        assert meta_of(wrapper)['classes'] == ('a', 'b')


@pytest.mark.parametrize(('options', 'message'), [
    (dict(interval=0), 'interval=0 must be at least 1, a whole number'),
    (dict(count=1.5), 'count=1.5 must be at least 1, a whole number'),
    (dict(queries=[(0.5, 3)]), r'query \(x, y\) = \(0.5, 3\) must be shares of the width and height, from 0 to 1'),
])
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        AttentionVisualizationHook(**options)


def test_what_is_rarely_given_is_given_by_name():
    with pytest.raises(TypeError, match='positional'):
        AttentionVisualizationHook(1, 2, [(0.5, 0.5)])
