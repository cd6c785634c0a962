"""Reading configs, and what is found in them."""
import pytest
from mmengine.config import Config

from mmattn import openmmlab
from mmattn.config import (
    check_scope,
    config_files,
    dataset_class,
    datasets_below,
    evaluators,
    find_config,
    named,
    read_config,
)
from mmattn.errors import UsageError
from tests.conftest import ROOT

DEMO = ROOT / 'configs/demo/upernet_dat_scenes.py'


@pytest.mark.parametrize(('text', 'message'), [
    ('a = ', 'cannot be read: '), ("_base_ = 'none.py'", 'cannot be read: '),
    ("_base_ = 'mmfoo::none.py'", 'cannot be read: '), ("_base_ = 'mmfoo::a/none.py'", 'cannot be read: '),
    ("custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)", 'Failed to import'),
])
def test_what_cannot_be_read_is_named(tmp_path, text, message):
    path = tmp_path / 'config.py'
    path.write_text(text)
    with pytest.raises(UsageError, match=rf'{path}.*{message}|{message}.*'):
        read_config(path)
    with pytest.raises(UsageError, match=r'config not found: .*/none\.py'):
        read_config(tmp_path / 'none.py')


def test_every_config_of_the_package_has_a_name_of_its_own_and_is_read_by_it():
    below = [path for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_']
    assert len(config_files()) == len(below) > 90
    for name, path in config_files().items():
        assert find_config(name) == find_config(path) == str(path)
        assert find_config(f'mmattn::{path.parent.name}/{path.name}') == str(path)
    assert read_config('upernet_dat_scenes').to_dict() == read_config(DEMO).to_dict()
    assert read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').model.type == 'RetinaNet'


@pytest.mark.parametrize(('name', 'message'), [
    ('upernet_dat_scene', r'/upernet_dat_scene; configs .* name: upernet_dat_scenes, '),
    ('configs/dat/mask-rcnn_dat_t_fpn_1x_coco.py', r'coco\.py; configs .* name: mask-rcnn_dat-t_fpn_1x_coco, '),
    ('mmattn::demo/upernet_dat_scene.py', '^config not found: mmattn::demo/upernet_dat_scene.py; configs .*dat_scenes'),
    ('mine.py', r'^config not found: /[^;]*/mine\.py$'),
    ('mmdet::none/none.py', '^mmdet::none/none.py cannot be read: '),
    ('mmfoo::none/none.py', 'cannot be read: .* mmfoo')])
def test_a_misspelt_config_gets_the_nearest_names(name, message):
    with pytest.raises(UsageError, match=message):
        read_config(name)


def test_a_base_of_the_package_keeps_the_scope_of_its_library(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmattn::demo/upernet_dat_scenes.py'\nmodel = dict(decode_head=dict(num_classes=3))\n")
    for cfg in (read_config(path), Config.fromfile(path)):
        plain = read_config(DEMO, {'model.decode_head.num_classes': 3})
        assert cfg.model.decode_head.num_classes == 3
        assert cfg.to_dict() == plain.to_dict()
    assert Config.fromfile('mmattn::demo/upernet_dat_scenes.py').to_dict() == read_config(DEMO).to_dict()


def test_bases_are_found_without_the_index_of_their_library(monkeypatch):
    expected = read_config(DEMO).to_dict()
    monkeypatch.delattr('mmengine.config.utils._get_cfg_metainfo')
    assert read_config(DEMO).to_dict() == expected


def test_a_bug_in_the_code_of_a_config_keeps_its_traceback(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("a = int('three')\n")
    with pytest.raises(ValueError, match='invalid literal'):
        read_config(path)


def test_options_are_applied_or_refused(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text('a = dict(b=[1, 2])\n')
    assert read_config(path, {'a.b': [3], 'c.d': 4}).to_dict() == dict(a=dict(b=[3]), c=dict(d=4))
    with pytest.raises(UsageError, match='--cfg-options cannot be applied to '):
        read_config(path, {'a.b.7': 3})


def test_a_version_that_does_not_work_is_one_line(monkeypatch):
    monkeypatch.setattr(openmmlab, 'version', lambda name: '0.1')
    with pytest.raises(UsageError, match=r'dat_scenes\.py: mmattn needs .*mmengine>=0\.10.*, found 0\.1; install'):
        read_config(DEMO)


def test_data_sets_and_evaluators_in_every_form():
    one, two = dict(type='CocoDataset'), dict(type='CocoDataset')
    wrapped = dict(dataset=dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[one, two])))
    found = dict(datasets_below(Config(dict(train_dataloader=wrapped)).train_dataloader, 'train_dataloader'))
    assert list(found) == [f'train_dataloader.dataset.dataset.datasets.{i}' for i in range(2)]
    metric = dict(type='IoUMetric')
    for form in (metric, [metric], dict(type='Evaluator', metrics=[metric]), dict(type='Evaluator', metrics=metric)):
        assert evaluators(dict(val_evaluator=form), 'val') == [metric]
    assert evaluators({}, 'val') == []


def test_classes_are_taken_as_names():
    from mmcv.transforms import LoadAnnotations
    from mmdet.datasets import CocoDataset
    assert {named(dict(type=kind)) for kind in (LoadAnnotations, 'LoadAnnotations', 'mmdet.LoadAnnotations')} == {
        'LoadAnnotations'}
    for kind in (CocoDataset, 'CocoDataset', 'mmdet.CocoDataset'):
        assert dataset_class(dict(default_scope='mmdet'), dict(type=kind)) is CocoDataset
    assert dataset_class(dict(default_scope='mmdet'), dict(type='Nothing')) is None


def test_a_config_of_another_library_is_refused():
    with pytest.raises(UsageError, match="default_scope='mmpose': only mmdet and mmseg configs can be drawn"):
        check_scope(Config(dict(default_scope='mmpose')), 'drawn')
