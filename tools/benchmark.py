"""Measure time and peak memory: python tools/benchmark.py dat --layer --dim 384 --heads 12 --groups 3 --size 50 80

Every figure is measured in processes of its own, one after the other, several times.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import UsageError, run

ROWS = {
    'reference': "the plain formula: bias and weights of all queries and keys held, as in the authors' code",
    'mmattn': 'what runs by default',
    'products': 'its matrix products and convolutions alone: the limit',
    'dense': 'bias held, fused attention',
    'separable': 'bias never held',
    'flex': 'bias never held, fused CUDA kernel',
    'no-bias': 'attention without position bias: the limit',
    'bf16': 'mmattn under bfloat16 autocast',
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], epilog='rows: ' + '; '.join(
        f'{name}: {what}' for name, what in ROWS.items()))
    parser.add_argument('family', choices=['dat', 'dat_pp', 'biformer', 'crossformer', 'crossformer_pp'])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--layer', action='store_true', help='one layer of attention: deformable, routing, long distance')
    what.add_argument('--arch', choices=['tiny', 'small', 'base', 'large', 'stl'], help='a whole backbone')
    parser.add_argument('--size', type=int, nargs=2, default=(50, 80), metavar=('H', 'W'), help='of the map or image')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--train', action='store_true', help='forward + backward as well')
    parser.add_argument('--with-cp', action='store_true', help='recompute blocks of a backbone in the backward pass')
    parser.add_argument('--rows', nargs='+', choices=ROWS, help='default: reference, mmattn, and no-bias for a layer')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--repeat', type=int, default=3, help='processes per row; figures are medians over them')
    parser.add_argument('--iterations', type=int, default=3, help='timed runs per process, after one untimed')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    layer = parser.add_argument_group('layer')
    layer.add_argument('--dim', type=int, default=384, help='channels')
    layer.add_argument('--heads', type=int, default=12)
    layer.add_argument('--groups', type=int, default=3, help='offset groups')
    layer.add_argument('--stride', type=int, default=1, help='pixels per sampled point')
    layer.add_argument('--table', type=int, default=14, help='map side that the bias table was made for')
    parser.add_argument('--windows', type=int, default=16, help='biformer: regions along each side')
    layer.add_argument('--topk', type=int, default=4, help='biformer: regions that a region attends to')
    layer.add_argument('--interval', type=int, default=8, help='crossformer: pixels between the tokens of a group')
    parser.add_argument('--row', choices=ROWS, help=argparse.SUPPRESS)              # measure it in this process
    parser.add_argument('--phase', choices=['forward', 'train'], help=argparse.SUPPRESS)
    parser.add_argument('--output', help=argparse.SUPPRESS)
    args = parser.parse_args()
    deformable_layer = args.layer and args.family in ('dat', 'dat_pp')
    if not deformable_layer and args.rows and 'no-bias' in args.rows:
        parser.error('no-bias is a row for --layer of dat and dat_pp')
    args.rows = args.rows or ['reference', 'mmattn', *(['no-bias'] if deformable_layer else [])]
    return args


def build(args):
    """The module and its input, with the same random weights in every row."""
    import torch
    torch.manual_seed(0)
    if args.layer:
        from mmattn.layers import BiLevelRoutingAttention, DeformableAttention, LongDistanceAttention
        if args.family == 'biformer':
            module = BiLevelRoutingAttention(args.dim, args.heads, args.windows, args.topk)
        elif args.family in ('crossformer', 'crossformer_pp'):
            module = LongDistanceAttention(args.dim, args.heads, interval=args.interval)
        else:
            module = DeformableAttention(
                args.dim, args.heads, args.groups, args.stride, offset_range_factor=2 if args.family == 'dat' else -1,
                table_size=args.table, convention=args.family,
                position_bias='none' if args.row == 'no-bias' else 'table')
        x = torch.randn(args.batch, args.dim, *args.size)
    else:
        from mmattn.backbones import DAT, BiFormer, CrossFormer, CrossFormerPlusPlus, DATPlusPlus
        if args.family == 'biformer':       # dense training keeps the statistics of batch norms
            module = BiFormer(args.arch, num_windows=args.windows, norm_eval=True, with_cp=args.with_cp).train()
        else:
            families = dict(dat=DAT, dat_pp=DATPlusPlus, crossformer=CrossFormer, crossformer_pp=CrossFormerPlusPlus)
            module = families[args.family](args.arch, with_cp=args.with_cp)
        x = torch.randn(args.batch, 3, *args.size)
    for name, p in module.named_parameters():
        if name.endswith('rpe_table'):      # as large as trained ones, so that every backend has a bias to get right
            torch.nn.init.normal_(p)
    return module.to(args.device), x.to(args.device)


def measure(args):
    """Time and peak memory of one row in this process; the output goes to a file."""
    import torch

    from mmattn.ops import convolution, deformable, grouped, routing
    if args.row in ('reference', 'dense', 'separable', 'flex'):
        for op in dict(biformer=[routing], crossformer=[grouped, convolution]).get(
                args.family.removesuffix('_pp'), [deformable]):
            os.environ[op.BACKEND_VARIABLE] = args.row
    elif args.row == 'products':        # of plain attention; fused kernels do not show theirs
        for op in (deformable, grouped, routing):
            os.environ[op.BACKEND_VARIABLE] = 'reference'
    module, x = build(args)
    training = args.phase == 'train'

    def step(x):
        with torch.set_grad_enabled(training), torch.autocast(x.device.type, torch.bfloat16, args.row == 'bf16'):
            out = module(x.requires_grad_(training))
        outs = [out] if args.layer else out
        if training:
            sum(o.float().square().mean() for o in outs).backward()
        return outs

    step(x[..., :32, :32].clone())      # libraries and kernels are loaded; what they take is not the step's
    module.zero_grad()
    before = memory(x.device, reset=True)
    outs = step(x)
    used = memory(x.device) - before
    torch.save([o.detach().float().cpu() for o in outs], args.output)
    if args.row == 'products':
        step = products_of(step, x)
    times = []
    for _ in range(args.iterations):
        module.zero_grad()
        times.append(seconds(lambda: step(x), x.device))
    print(json.dumps({'threads': torch.get_num_threads(), f'{args.phase}_seconds': statistics.median(times),
                      f'{args.phase}_bytes': None if args.row == 'products' else used}))


def products_of(step, x):
    """What runs the matrix products and convolutions of a step again, on numbers of the same shapes and layout."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map_only
    calls, numbers = [], {}

    def stand_in(t):
        key = t.shape, t.stride(), t.dtype
        if key not in numbers:
            numbers[key] = torch.empty_strided(*key[:2], dtype=t.dtype, device=t.device).fill_(0.5)
        return numbers[key]

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in ('mm', 'addmm', 'bmm', 'baddbmm', 'convolution', 'convolution_backward'):
                calls.append((func, tree_map_only(torch.Tensor, stand_in, args), kwargs or {}))
            return func(*args, **kwargs or {})

    with Record():
        step(x)

    def run_again(_):
        with torch.no_grad():
            for func, args, kwargs in calls:
                func(*args, **kwargs)

    return run_again


def seconds(call, device):
    """How long a call takes, with what it leaves running on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device):
    if device.type == 'cuda':
        import torch
        torch.cuda.synchronize(device)


def memory(device, reset=False):
    """Peak memory in bytes since the last reset, or what is in use when it is reset."""
    import torch
    if device.type == 'cuda':
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        if reset:
            Path('/proc/self/clear_refs').write_text('5')       # Linux: the peak becomes what is resident now
        status = Path('/proc/self/status').read_text()
        return int(status.partition('VmHWM:')[2].split()[0]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def measure_rows(args):
    """Every row, each repetition in a process of its own; repetitions go round the rows, so that a busy spell of the
    machine does not fall on one of them."""
    results = {name: [] for name in args.rows}
    refused, outputs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeat):
            for name in args.rows:
                if name in refused:
                    continue
                outputs[name] = Path(folder) / f'{name}.pt'
                result = {}
                for phase in ('forward', 'train') if args.train else ('forward',):
                    command = [sys.executable, __file__, *sys.argv[1:], '--row', name, '--phase', phase,
                               '--output', str(outputs[name])]
                    child = subprocess.run(command, capture_output=True, text=True, check=False)
                    if child.returncode:
                        lines = child.stderr.strip().splitlines()
                        refused[name] = lines[-1] if lines else f'ended with status {child.returncode}'
                        break
                    result.update(json.loads(child.stdout.splitlines()[-1]))
                results[name].append(result)
        differences = {name: difference(outputs[name], outputs[args.rows[0]]) for name in args.rows
                       if not {name, args.rows[0]} & set(refused)}
    table = []
    for name in args.rows:
        row = dict(row=name)
        if name in refused:
            row['refused'] = refused[name]
        else:
            for key in results[name][0]:
                values = [result[key] for result in results[name]]
                row[key] = None if None in values else statistics.median(values)
            if name not in ('no-bias', 'products') and name in differences:
                row['difference'] = differences[name]
        table.append(row)
    return table


def difference(path, reference):
    """Relative difference of two outputs, ||a - b|| / ||b||, the largest over the maps."""
    import torch
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(torch.load(path), torch.load(reference)))


def print_table(args, table):
    parts = dict(biformer=f'{args.windows} windows a side, top {args.topk}',
                 crossformer=f'groups of 7 x 7, interval {args.interval}').get(
                     args.family.removesuffix('_pp'), f'{args.groups} groups')
    what = f'layer {args.dim} channels, {args.heads} heads, {parts}' if args.layer else args.arch
    first = table[0]
    print(f'{args.family} {what}, {args.batch} x {args.size[0]} x {args.size[1]}, {args.device}, '
          f'{first.get("threads", "?")} threads, medians of {args.repeat} x {args.iterations}')
    columns = [('forward', 'forward')] + ([('forward + backward', 'train')] if args.train else [])
    print('| row |' + ''.join(f' {title} | ratio | added memory |' for title, _ in columns) + ' differs by |')
    print('|---|' + '---|---|---|' * len(columns) + '---|')
    for row in table:
        if 'refused' in row:
            print(f'| {row["row"]} |' + ' | | |' * len(columns) + f' {row["refused"]} |')
            continue
        cells = []
        for _, key in columns:
            seconds, used = row[f'{key}_seconds'], row[f'{key}_bytes']
            ratio = f'{first[f"{key}_seconds"] / seconds:.1f} x' if 'refused' not in first else ''
            cells.append(f' {seconds:.3f} s | {ratio} |' + (' |' if used is None else f' {used / 2 ** 20:.0f} MiB |'))
        print(f'| {row["row"]} |' + ''.join(cells) + (f' {row["difference"]:.1e} |' if 'difference' in row else ' |'))


def main():
    args = parse_args()
    if args.row:
        measure(args)
        return
    if min(*args.size, args.batch, args.repeat, args.iterations) < 1:
        raise UsageError('--size, --batch, --repeat and --iterations must be at least 1')
    table = measure_rows(args)
    if args.json:
        print(json.dumps(dict(vars(args), table=table), indent=1))
    else:
        print_table(args, table)


if __name__ == '__main__':
    run(main)
