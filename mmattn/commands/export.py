"""Write a detector or a segmentor as an ONNX file.

The file is checked against PyTorch in onnxruntime before it is kept. Its metadata, and a JSON file beside it, say how
images become inputs. `mmattn test CONFIG FILE.onnx` measures it on the data of a config.
"""
from argparse import ArgumentParser, Namespace

from mmattn.commands.options import add_config, add_trust
from mmattn.config import is_segmentation
from mmattn.deployment.exporting import Model, Options, check_packages, export
from mmattn.errors import UsageError


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    add_trust(parser)
    parser.add_argument('checkpoint', help="checkpoint file, ours or the authors'; 'random' for an untrained model")
    parser.add_argument('-o', '--out', metavar='FILE.onnx', required=True, help='where to write it')
    parser.add_argument('--shape', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'),
                        help='of the input; default: the crop that a segmentor is trained on, the scale of the test '
                             'pipeline otherwise. Larger images are made smaller')
    parser.add_argument('--batch-size', type=int, default=1, help='images of the input; default 1')
    parser.add_argument('--dynamic', action='store_true', help='leave height and width free, where the layers allow it')
    parser.add_argument('--raw', action='store_true',
                        help='of a detector, boxes and scores before thresholds and suppression')
    parser.add_argument('--output', choices=['labels', 'logits'],
                        help='of a segmentor, label maps or the logits; default labels')
    parser.add_argument('--score-thr', type=float, help='lowest score of a detection; default as in the config')
    parser.add_argument('--opset', type=int, help='version of the ONNX operators; default the one PyTorch writes best')


def run(args: Namespace) -> None:
    check_packages()
    if args.batch_size < 1 or min(args.shape or [1]) < 1:
        raise UsageError(f'--shape {args.shape} --batch-size {args.batch_size}: whole numbers from 1 are needed')
    changed = dict(args.cfg_options)
    if args.score_thr is not None:
        changed['model.test_cfg.score_thr'] = args.score_thr
    model = Model.read(args.config, args.checkpoint, options=changed, trust_checkpoint=args.trust_checkpoint)
    segments = is_segmentation(model.cfg)
    detector_only = [name for name in ('raw', 'score_thr') if getattr(args, name) not in (None, False)]
    if segments and detector_only:
        raise UsageError(f'--{detector_only[0].replace("_", "-")} is for detectors, and {model.name} is a segmentor')
    if args.output and not segments:
        raise UsageError(f'--output is for segmentors, and {model.name} is a detector')
    options = Options(args.shape and tuple(args.shape), args.batch_size, args.dynamic, args.raw,
                      args.output or 'labels', args.opset)
    found = export(model, args.out, options)
    print('onnxruntime beside PyTorch:', *(f'  {one}' for one in found), f'wrote {args.out}', sep='\n')
