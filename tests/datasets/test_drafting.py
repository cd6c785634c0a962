"""Configs that are written for data of one's own: what of the base they change, and that a model is built of them."""
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmattn.config import config_files, read_config
from mmattn.datasets import scenes
from mmattn.datasets.checking import NOT_HEADS
from mmattn.datasets.config_text import Code, assignments
from mmattn.datasets.drafting import Draft, base_of, usual_scale, write
from mmattn.datasets.layouts import Layout, Split
from mmattn.engine.building import build_model
from mmattn.errors import UsageError
from tests.datasets.test_voc import OBJECT
from tests.datasets.test_voc import write as write_voc

PARTS = {split: Split(f'{split}.json', f'{split}/', f'maps/{split}', count)
         for split, count in (('train', 100), ('val', 20), ('test', 30))}
SEGMENTOR, DETECTOR = 'upernet_dat_scenes', 'mask-rcnn_dat_scenes'


def draft(name=DETECTOR, classes=('a', 'b'), ignored=None, form='coco', base=None, **options):
    base = base or read_config(name)
    layout = Layout(form, PARTS, classes, (640, 480), with_masks=True, values=options.pop('values', ()))
    values = dict(scale=(320, 240), batch_size=8) | options
    return Draft(name, base, 'data/mine', layout, classes, ignored, **values)


def written(tmp_path, *args, **options):
    write(draft(*args, **options), tmp_path / 'mine.py')
    return read_config(tmp_path / 'mine.py')


def counts(node, key='model'):
    """The keys and values of every number of classes below the heads."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in children:
        if name in ('num_classes', 'num_things_classes'):
            yield f'{key}.{name}', value
        elif name == 'class_weight' and isinstance(value, list):
            yield f'{key}.{name}', len(value) - 1
        elif name not in NOT_HEADS:
            yield from counts(value, f'{key}.{name}')


def test_a_detector(tmp_path):
    cfg = written(tmp_path, epochs=7)
    assert dict(counts(cfg.model.roi_head, '')) == {'.bbox_head.num_classes': 2, '.mask_head.num_classes': 2}
    for split in PARTS:
        data = cfg[f'{split}_dataloader'].dataset
        assert (data.type, data.data_root, data.ann_file) == ('CocoDataset', 'data/mine/', f'{split}.json')
        assert data.metainfo.classes == ('a', 'b')
        assert data.data_prefix.img == f'{split}/'
    assert cfg.val_evaluator.ann_file == 'data/mine/val.json'
    assert cfg.test_evaluator.ann_file == 'data/mine/test.json'
    assert cfg.test_evaluator.metric == ['bbox', 'segm']
    assert cfg.train_cfg.max_epochs == 7
    assert cfg.param_scheduler[1].end == 7 * 13 == cfg.steps
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin == 9
    assert cfg.train_dataloader.dataset.pipeline[2].scale == (320, 240)
    assert build_model(cfg).roi_head.bbox_head.fc_cls.out_features == 3


def test_pascal_voc(tmp_path):
    cfg = written(tmp_path, 'retinanet_biformer_scenes', form='voc')
    assert cfg.test_dataloader.dataset.type == 'XMLDataset'
    assert 'instances' in cfg.test_dataloader.dataset.pipeline[-1].meta_keys
    assert 'ann_file' not in cfg.test_evaluator
    assert cfg.test_evaluator.metric == ['bbox']


def test_a_box_without_area_of_pascal_voc_is_not_learned(tmp_path):
    from mmdet.registry import DATASETS
    write_voc(tmp_path, 1)
    path = tmp_path / 'Annotations/0.xml'
    path.write_text(path.read_text().replace('</annotation>', OBJECT.format('disk', 9, 9, 9, 20) + '</annotation>'))
    cfg = written(tmp_path, 'retinanet_biformer_scenes', classes=scenes.CLASSES, form='voc')
    with DefaultScope.overwrite_default_scope('mmdet'):
        data = DATASETS.build(dict(cfg.train_dataloader.dataset, data_root=f'{tmp_path}/', ann_file='list.txt'))
    sample = data[0]['data_samples']
    assert len(sample.gt_instances) == len(scenes.scene('training', 0)[1])
    assert len(sample.ignored_instances) == 1


@pytest.mark.parametrize(('ignored', 'values', 'start', 'index'), [
    (None, range(3), False, None), (255, [0, 1, 2, 255], False, None), (0, range(4), True, None),
    (3, range(4), False, 3)])
def test_a_segmentor(tmp_path, ignored, values, start, index):
    cfg = written(tmp_path, SEGMENTOR, 'abc', ignored, form='maps', values=list(values))
    assert dict(counts(cfg.model)) == {'model.decode_head.num_classes': 3, 'model.auxiliary_head.num_classes': 3}
    data = cfg.train_dataloader.dataset
    assert data.reduce_zero_label is start
    assert data.data_prefix == dict(img_path='train/', seg_map_path='maps/train')
    crop, = (step for step in data.pipeline if step.type == 'RandomCrop')
    places = (data, crop, cfg.model.decode_head, cfg.model.auxiliary_head, cfg.test_evaluator)
    assert {place.get('ignore_index') for place in places} == {index}
    assert cfg.model.data_preprocessor.seg_pad_val == (255 if index is None else index)
    assert cfg.model.data_preprocessor.size == crop.crop_size == (128, 160)
    assert [step.type for step in data.pipeline[2:]] == ['Resize', 'RandomCrop', 'RandomFlip', 'PackSegInputs']
    assert cfg.train_cfg.max_iters == cfg.steps == cfg.param_scheduler[1].end


def test_augmentation_of_label_maps_is_that_of_the_base(tmp_path):
    cfg = written(tmp_path, 'dat-t_upernet_8xb2-160k_ade20k-512x512', 'abc', form='maps')
    steps = cfg.train_dataloader.dataset.pipeline
    assert [step.type for step in steps[2:]] == ['RandomResize', 'RandomCrop', 'RandomFlip', 'PhotoMetricDistortion',
                                                 'PackSegInputs']
    assert steps[2].ratio_range == (0.5, 2.0)
    assert cfg.test_dataloader.dataset.pipeline[1] == dict(type='Resize', scale=(320, 240), keep_ratio=True)


def test_lists_of_heads_are_whole(tmp_path):
    name = 'cascade-mask-rcnn_dat-t_fpn_1x_coco'
    cfg, base = written(tmp_path, name), read_config(name)
    for head, other in zip(cfg.model.roi_head.bbox_head, base.model.roi_head.bbox_head, strict=True):
        assert head == {**other, 'num_classes': 2}
    assert cfg.model.rpn_head == base.model.rpn_head


def test_weights_of_classes(tmp_path):
    base = Config(dict(read_config(DETECTOR).to_dict(), model=dict(
        type='Mask2Former', panoptic_head=dict(num_things_classes=80, num_stuff_classes=0, loss_cls=dict(
            class_weight=[1.0] * 80 + [0.1])), backbone=dict(num_classes=7))))
    write(draft(base=base), tmp_path / 'mine.py')
    text = ' '.join((tmp_path / 'mine.py').read_text().split())
    assert 'num_things_classes=num_classes, loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])' in text
    assert 'num_stuff_classes' not in text
    assert 'backbone' not in text


def test_the_length_and_the_rate_follow_from_the_images(tmp_path):
    assert draft().length == 77          # of 13 steps: a thousand
    assert draft(epochs=3).length == 3
    assert draft(name='mask-rcnn_dat-t_fpn_1x_coco').rate == 1e-4 * 8 / 16
    cfg = written(tmp_path)
    assert cfg.optim_wrapper.optimizer.lr == 1e-3
    assert cfg.optim_wrapper.paramwise_cfg == read_config(DETECTOR).optim_wrapper.paramwise_cfg
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size == 8


def test_a_training_of_a_few_steps_has_no_warm_up(tmp_path):
    cfg = written(tmp_path, epochs=1)
    assert [one.type for one in cfg.param_scheduler] == ['LinearLR', 'CosineAnnealingLR']
    cosine, = written(tmp_path, epochs=1, batch_size=20).param_scheduler
    assert (cosine.begin, cosine.end) == (0, 5)


def test_a_changed_line_changes_what_follows_from_it(tmp_path):
    write(draft(), tmp_path / 'mine.py')
    text = (tmp_path / 'mine.py').read_text()
    for old, new in (("classes = ('a', 'b')", "classes = ('a', 'b', 'c')"), ('batch_size = 8', 'batch_size = 4'),
                     ('epochs = 77', 'epochs = 10')):
        assert text.count(f'\n{old}\n') == 1
        text = text.replace(f'\n{old}\n', f'\n{new}\n')
    (tmp_path / 'mine.py').write_text(text)
    cfg = read_config(tmp_path / 'mine.py')
    assert set(dict(counts(cfg.model)).values()) == {3}
    assert cfg.param_scheduler[1].end == 10 * 25
    assert cfg.param_scheduler[0].end == 25
    assert cfg.train_cfg.max_epochs == 10


def test_hooks_that_switch_the_recipe_of_the_base_are_left_out(tmp_path):
    base = read_config('yolox-s_deformable_8xb8-300e_coco')
    names = [hook.type for hook in base.custom_hooks]
    assert 'YOLOXModeSwitchHook' in names
    cfg = written(tmp_path, 'yolox-s_deformable_8xb8-300e_coco', base=base)
    assert [hook.type for hook in cfg.custom_hooks] == [name for name in names if name != 'YOLOXModeSwitchHook']


def test_sizes_are_those_of_the_base_or_of_the_images():
    assert usual_scale(read_config(DETECTOR), (640, 480)) == (160, 128)
    assert usual_scale(read_config('dat-t_upernet_8xb2-160k_ade20k-512x512'), (640, 480)) == (2048, 512)
    assert usual_scale(read_config(SEGMENTOR), (480, 640)) == (640, 480)


def test_the_base_is_named_where_it_can_be_found(tmp_path):
    assert base_of('mask-rcnn_dat_scenes', tmp_path / 'a.py') == 'mmattn::demo/mask-rcnn_dat_scenes.py'
    assert base_of('mmdet::atss/atss_r50_fpn_1x_coco.py', tmp_path / 'a.py') == 'mmdet::atss/atss_r50_fpn_1x_coco.py'
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'base.py').write_text('')
    assert base_of(str(tmp_path / 'base.py'), tmp_path / 'mine/a.py') == '../base.py'


@pytest.mark.parametrize(('options', 'message'), [
    (dict(name=SEGMENTOR, classes='abc', values=range(5)), 'the label maps in data/mine have the values 0, 1, 2, 3, '
     '4; with 3 classes 3, 4 would be none: name as many --classes as there are, and the value that is not learned '
     'with --ignore VALUE'),
    (dict(name=SEGMENTOR, classes='abc', values=range(5), ignored=3), 'with 3 classes 4 would be none')])
def test_values_that_are_no_class(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        written(tmp_path, form='maps', **options)
    assert not (tmp_path / 'mine.py').exists()


def test_a_config_in_python_is_no_base_of_one_in_text(tmp_path):
    with pytest.raises(UsageError, match='_in_python is a config in Python, and cannot be the base of one in text'):
        written(tmp_path, 'retinanet_biformer_scenes_in_python')
    assert not (tmp_path / 'mine.py').exists()


def test_masks_that_the_data_lacks(tmp_path):
    found = draft()
    bare = Draft(**{**vars(found), 'layout': Layout('coco', PARTS, ('a', 'b'), (640, 480), with_masks=False)})
    with pytest.raises(UsageError, match='mask-rcnn_dat_scenes learns masks, and the objects in data/mine have none'):
        write(bare, tmp_path / 'mine.py')


def test_values_as_text():
    values = dict(a=Code('x + 1'), b='x + 1', c=(1,), d=[dict(e=None)], f={'g.h': 2, '**': Code('i')},
                  long=dict(first='a' * 60, second=['b' * 60, dict(third='c' * 100)], fourth={'d.e': 'f' * 120}))
    text = assignments(values)
    assert text.startswith("a = x + 1\nb = 'x + 1'\nc = (1,)\nd = [dict(e=None)]\nf = {'g.h': 2, **i}\nlong = dict(\n")
    names = dict(x=1, i=dict(j=3))
    exec(text, names)
    assert names['f'] == {'g.h': 2, 'j': 3}
    assert names['long'] == values['long']
    assert all(len(line) < 150 for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:topk=')
@pytest.mark.parametrize('name', sorted(name for name in config_files() if not name.endswith('_in_python')))
def test_every_config_is_a_base(tmp_path, name):
    segmentor = read_config(name).default_scope == 'mmseg'
    cfg = written(tmp_path, name, 'abcd', form='maps' if segmentor else 'coco')
    found = dict(counts(cfg.model))
    assert found
    assert set(found.values()) == {4}
    assert cfg.model.backbone == read_config(name).model.backbone
