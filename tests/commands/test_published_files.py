"""Files in the layout of the published ones, with random values, are taken by the config of their row."""
import pytest
import torch
from mmengine.config import Config

from mmattn.engine.building import build_model, load_weights
from mmattn.errors import UsageError
from mmattn.openmmlab import choose_checkpoint_reading
from tests import authors
from tests.test_recipes import ROWS, config, family

# DAT is not published for dense prediction, nor are CrossFormer trained 36 epochs and CrossFormer++-B.
PUBLISHED = [name for name in ROWS if '_ms-3x_' not in name or 'dat-pp' in name]
PUBLISHED = [name for name in PUBLISHED if 'crossformer-pp-b' not in name and not any(
    f'dat-{size}_' in name for size in 'tsb')]


def write_file(path, name, cfg):
    """A file in the authors' layout; returns its parameters by our names."""
    with torch.device('meta'):
        model = build_model(cfg)
    state, ours = {}, {}
    for theirs, (our_name, shape) in authors.layout(model, family(name)).items():
        state[theirs] = torch.zeros(shape, dtype=torch.long) if 'num_batches' in theirs else torch.rand(shape)
        ours[our_name] = state[theirs].view(model.state_dict()[our_name].shape)
    if 'retinanet_biformer' in name:        # a norm that the detector does not read
        state |= {f'backbone.extra_norms.0.{leaf}': torch.ones(model.backbone.stages[0].blocks[0].norm1.weight.shape)
                  for leaf in ('weight', 'bias')}
    torch.save(dict(meta=dict(CLASSES=('thing',)), state_dict=state), path)
    return ours


def check_file(path, name, cfg):
    choose_checkpoint_reading()
    expected = write_file(path, name, cfg)
    model = build_model(cfg)
    load_weights(model, str(path))       # as tools/test.py does: nothing missing, nothing unknown
    for ours, value in model.state_dict().items():
        assert torch.equal(value, expected[ours]), ours


def test_none_is_left_out():
    assert len(PUBLISHED) == 46


def test_a_published_layout_is_taken(tmp_path):
    check_file(tmp_path / 'theirs.pth', 'mask-rcnn_dat-pp-t_fpn_1x_coco', config('mask-rcnn_dat-pp-t_fpn_1x_coco'))


@pytest.mark.slow
@pytest.mark.parametrize('name', PUBLISHED)
def test_every_published_layout_is_taken(name, tmp_path):
    check_file(tmp_path / 'theirs.pth', name, config(name))


def test_a_file_without_the_convolution_of_the_neck_is_refused(tmp_path):
    cfg = config('mask-rcnn_dat-pp-t_fpn_1x_coco')
    pooled = Config(cfg.to_dict())
    pooled.model.neck.add_extra_convs = False
    write_file(tmp_path / 'pooled.pth', 'mask-rcnn_dat-pp-t_fpn_1x_coco', pooled)
    with pytest.raises(UsageError, match=r'is not of this model: missing keys.*neck\.fpn_convs\.4'):
        load_weights(build_model(cfg), str(tmp_path / 'pooled.pth'))
