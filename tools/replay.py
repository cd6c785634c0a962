"""Run the call of a model again whose numbers were not finite: python tools/replay.py CONFIG FILE

Prints the first module that makes such a number. FILE is what `mmattn.NonFiniteHook` wrote.
"""
import argparse

from mmengine.device import get_device

import common
from mmattn.checkpoint.reading import read_checkpoint
from mmattn.engine.non_finite import find_culprit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_config(parser)
    parser.add_argument('file', help='non_finite_step_N.pth in the work directory of a training or test')
    args = parser.parse_args()
    cfg = common.changed_config(args)
    common.check_checkpoint(args.file)
    content = read_checkpoint(args.file, get_device(), samples=True)
    if 'call' not in content:
        raise common.UsageError(f'{args.file} holds no call of a model; mmattn.NonFiniteHook writes such files')
    model = common.build_model(cfg).to(get_device())
    model.load_state_dict(content['state_dict'])
    print(find_culprit(model, content['call']))


if __name__ == '__main__':
    common.run(main)
