"""Test a detector, a segmentor or a classifier; print COCO AP, mIoU or accuracy.

A file that `mmattn export` wrote is tested as a checkpoint is: on the same data, by the same evaluator, in onnxruntime.
"""
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmattn.checkpoint.files import check_file
from mmattn.commands.options import add_runner, runner_config
from mmattn.config import datasets_with_pipeline, evaluators, is_classification, is_detection, is_segmentation
from mmattn.datasets.checking import check_annotations, check_paths
from mmattn.datasets.skipping import leave_out
from mmattn.deployment.evaluating import put_in
from mmattn.engine.building import build_runner, config_errors, evaluate, join_processes
from mmattn.errors import UsageError

SUPPRESSION, BOXES = 0.5, 100       # of a detector without a recipe: overlap of boxes that are one, boxes of an image


def add_arguments(parser: ArgumentParser) -> None:
    add_runner(parser)
    parser.add_argument('checkpoint', help="checkpoint file, ours or the authors', or an exported .onnx file")
    parser.add_argument('--out', metavar='FILE.pkl|DIR',
                        help='write the predictions: a pickle of all, or for segmentation a folder of label maps')
    parser.add_argument('--show-dir', metavar='DIR', help='write a picture of each prediction beside the ground truth')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: scales and flips')


def run(args: Namespace) -> None:
    cfg = runner_config(args, 'tested')
    check_paths(cfg, 'test')
    exported = args.checkpoint.endswith('.onnx')
    if exported and args.tta:
        raise UsageError(f'--tta: {args.checkpoint} predicts for images as they are')
    if not exported:
        check_file(args.checkpoint)
    if args.show_dir:
        draw_into(cfg, args.show_dir)
    join_processes(cfg)
    with config_errors():
        check_annotations(cfg, 'test')
        skipped = leave_out(cfg, 'test')
    if exported:
        put_in(cfg, args.checkpoint)
    if args.tta:
        augment(cfg)
    if args.out:
        write_predictions(cfg, args.out)
    runner = build_runner(cfg)
    for line in skipped.lines:
        runner.logger.warning(line)
    metrics = evaluate(runner, None if exported else args.checkpoint)
    if runner.rank:
        return      # the first process speaks for all
    if not metrics:
        print('no figures: the model predicted nothing above its score threshold')
    print(*(f'{name} {value:.3f}' for name, value in metrics.items() if isinstance(value, Real)), sep='\n')
    if skipped.summary:
        print(skipped.summary)


def draw_into(cfg: Config, folder: str) -> None:
    """Let the visualization hook of either library write its pictures below a folder."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise UsageError('--show-dir needs default_hooks.visualization in the config, and there is none')
    if is_classification(cfg):
        hook.update(enable=True, interval=1, out_dir=folder)
        return
    hook.draw = True
    if is_segmentation(cfg):
        cfg.visualizer.save_dir = folder            # pictures in vis_data/vis_image
        hook.interval = 1                           # the classic mmseg draws every 50th otherwise
    else:
        hook.test_out_dir = str(Path(folder).absolute())


def augment(cfg: Config) -> None:
    """Test every image several times, and merge what is predicted: as the config says in tta_model and tta_pipeline, or
    for a detector that does not say, as it is and flipped."""
    datasets = datasets_with_pipeline(cfg, 'test')
    if is_detection(cfg) and 'tta_model' not in cfg:
        if (cfg.model.get('roi_head') or {}).get('mask_head'):
            raise UsageError('--tta: mmdet merges boxes only, and this model predicts masks')
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=dict(
            nms=dict(type='nms', iou_threshold=SUPPRESSION), max_per_img=BOXES))
        cfg.tta_pipeline = flipped(datasets[0].pipeline)
    for name in ('tta_model', 'tta_pipeline'):
        if name not in cfg:
            raise UsageError(f'--tta: the config has no {name}')
    cfg.model = {**cfg.tta_model, 'module': cfg.model}
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


def flipped(pipeline: list[Any]) -> list[Any]:
    """A pipeline that gives each image as it is and flipped; its last step packs them, with what flips back."""
    *steps, pack = pipeline
    known = pack.get('meta_keys') or ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pack = {**pack, 'meta_keys': tuple(dict.fromkeys([*known, 'flip', 'flip_direction']))}
    choices = [[dict(type='RandomFlip', prob=probability) for probability in (0.0, 1.0)], [pack]]
    return [*steps, dict(type='TestTimeAug', transforms=choices)]


def write_predictions(cfg: Config, out: str) -> None:
    """Ask the evaluators to keep the predictions."""
    metrics = evaluators(cfg, 'test')
    if out.endswith(('.pkl', '.pickle')):
        kind = 'mmdet.DumpDetResults' if is_detection(cfg) else 'DumpResults'
        metrics = [*metrics, dict(type=kind, out_file_path=out)]
    elif is_segmentation(cfg):
        metrics[0].output_dir = out
    elif is_classification(cfg):
        raise UsageError(f'--out {out}: scores of classes go to one file, name it .pkl or .pickle')
    else:
        raise UsageError(f'--out {out}: detections go to one file, name it .pkl or .pickle')
    wrapped = isinstance(cfg.test_evaluator, Mapping) and 'metrics' in cfg.test_evaluator
    cfg.test_evaluator = {**cfg.test_evaluator, 'metrics': metrics} if wrapped else metrics
