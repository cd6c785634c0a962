"""Test a detector or a segmentor: python tools/test.py CONFIG CHECKPOINT"""
import argparse
from copy import deepcopy
from numbers import Real
from pathlib import Path

from common import (
    UsageError,
    add_common_options,
    build_runner,
    check_checkpoint,
    load_config,
    load_weights,
    run,
)
from common_data import check_data, check_masks, leave_out


def parse_args():
    parser = argparse.ArgumentParser(description='Test a detector or a segmentor; print COCO AP or mIoU.')
    add_common_options(parser)
    parser.add_argument('checkpoint', help="checkpoint file, ours or the authors'")
    parser.add_argument('--out', metavar='FILE.pkl|DIR',
                        help='write the predictions: a pickle of all, or for segmentation a folder of label maps')
    parser.add_argument('--show-dir', metavar='DIR', help='write a picture of each prediction beside the ground truth')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: scales and flips')
    return parser.parse_args()


def is_segmentation(cfg):
    return cfg.get('default_scope') == 'mmseg'


def draw_into(cfg, folder):
    """Let the visualization hook of either library write its pictures below a folder."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise UsageError("--show-dir needs default_hooks.visualization in the config, and there is none")
    hook.draw = True
    if is_segmentation(cfg):
        cfg.visualizer.save_dir = folder            # pictures in vis_data/vis_image
        hook.interval = 1                           # the classic mmseg draws every 50th otherwise
    else:
        hook.test_out_dir = str(Path(folder).absolute())


def use_tta(cfg):
    """Wrap the model and the pipeline for test-time augmentation; a detector without a recipe gets a flip."""
    if not is_segmentation(cfg) and 'tta_model' not in cfg:
        if cfg.model.get('roi_head', {}).get('mask_head'):
            raise UsageError('--tta: mmdet merges boxes only, and this model predicts masks')
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5),
                                                              max_per_img=100))
        pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
                                                     'flip', 'flip_direction'))
        pipeline = deepcopy(cfg.test_dataloader.dataset.pipeline[:-1])
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline = [*pipeline, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    for name in ('tta_model', 'tta_pipeline'):
        if name not in cfg:
            raise UsageError(f'--tta: the config has no {name}')
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def write_predictions(cfg, out):
    """Ask the evaluator to keep the predictions."""
    if out.endswith(('.pkl', '.pickle')):
        dump = dict(type='DumpResults' if is_segmentation(cfg) else 'mmdet.DumpDetResults', out_file_path=out)
        evaluator = cfg.test_evaluator
        cfg.test_evaluator = [*(evaluator if isinstance(evaluator, list) else [evaluator]), dump]
    elif is_segmentation(cfg):
        cfg.test_evaluator.output_dir = out
    else:
        raise UsageError(f'--out {out}: detections go to one file, name it .pkl or .pickle')


def main():
    args = parse_args()
    cfg = load_config(args)
    check_data(cfg, 'test')
    check_masks(cfg, 'test')
    check_checkpoint(args.checkpoint)
    if args.show_dir:
        draw_into(cfg, args.show_dir)
    warnings, skipped = leave_out(cfg, 'test')
    if args.tta:
        use_tta(cfg)
    if args.out:
        write_predictions(cfg, args.out)
    runner = build_runner(cfg)
    load_weights(runner, args.checkpoint)
    for line in warnings:
        runner.logger.warning(line)
    metrics = runner.test()
    if runner.rank:
        return      # the first process speaks for all
    if not metrics:
        print('no figures: the model predicted nothing above its score threshold')
    print(*(f'{name} {value:.3f}' for name, value in metrics.items() if isinstance(value, Real)), sep='\n')
    if skipped:
        print(skipped)


if __name__ == '__main__':
    run(main)
