"""Check a GPU: are all implementations right on it, and how fast is each.

Needs torch and einops, Triton for the kernels, MMEngine for whole backbones. Everything is written to a JSON file; a
short table comes last.

    mmattn check-gpu --out gpu.json
"""
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch

from mmattn.errors import UsageError
from mmattn.measuring.gpu import PLAN, Settings, report


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('--out', type=Path, default=Path('gpu.json'), help='the file; default: %(default)s')
    parser.add_argument('--minutes', type=float, default=10, help='what takes longer is left out; default: %(default)s')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--size', type=int, nargs=2, default=(800, 1280), metavar=('H', 'W'), help='of the image')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--iterations', type=int, default=5, help='timed runs of each')
    parser.add_argument('--only', nargs='+', metavar='WORD', help=f'tasks with one of these words; words are among '
                        f'{", ".join(sorted({task[0] for task in PLAN}))}')


def run(args: Namespace) -> int:
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise UsageError(f'--device={args.device}: this PyTorch ({torch.__version__}) finds no GPU; --device cpu tries '
                         'the command without one')
    if min(*args.size, args.batch, args.iterations) < 1:
        raise UsageError('--size, --batch and --iterations must be at least 1')
    plan = [task for task in PLAN if not args.only or set(args.only) & set(' '.join(task).split())]
    if not plan:
        raise UsageError(f'--only {" ".join(args.only)} leaves no task')
    settings = Settings(args.device, tuple(args.size), args.batch, args.iterations)
    whole = report(settings, args.out, args.minutes, plan, lambda line: print(line, flush=True))
    print_table(whole)
    print(f'all figures: {args.out}')
    return int(any(result.get('failed') or result.get('ok') is False for result in whole['results']))


def print_table(whole: dict[str, Any]) -> None:
    """What came out, short."""
    print(f'\n{whole["device"]}, PyTorch {whole["torch"]}, Triton {whole["triton"]}')
    results = whole['results']
    for result in results:
        figures = {key: value for key, value in result.items() if key != 'what' and isinstance(value, float)}
        if len(result) == 2 and figures:
            print(f'  {result["what"]}: ' + ', '.join(f'{value:.4g} {key}' for key, value in figures.items()))
    checked: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        if 'shape' in result:
            checked.setdefault((result['what'], result['backend'], result['dtype']), []).append(result)
    for (what, backend, dtype), rows in checked.items():
        print(f'  {what:24} {backend:10} {dtype:9} {_verdict(rows)}')
    for result in results:
        backend = result.get('tiles') or result.get('backend', '')
        name = f'{result["what"]:26} {backend:13} {result.get("dtype", ""):9}'
        if 'step_ms' in result:
            print(f'  {name} forward {result["forward_ms"]:8.2f} ms  step {result["step_ms"]:8.2f} ms  '
                  f'{result["peak_mib"]:8.0f} MiB  {result["kernel_calls"]} calls')
        elif 'shape' not in result and ('refused' in result or 'failed' in result):
            print(f'  {name} {result.get("refused") or result["failed"]}')
    for name, reason in whole['left_out'].items():
        print(f'  left out: {name}: {reason}')


def _verdict(rows: list[dict[str, Any]]) -> str:
    wrong = [row for row in rows if 'failed' in row or row.get('ok') is False]
    ran = [row for row in rows if 'output' in row]
    if not ran and not wrong:
        return rows[0]['refused']
    worst = max((max(row['output'], *row['gradients'].values()) for row in ran), default=float('nan'))
    bits = 'same bits' if all(row['same_bits'] for row in ran) else 'not the same bits'
    text = f'{len(ran)} of {len(rows)} shapes ran, worst error {worst:.1e}, {bits}'
    return text + (f'; WRONG: shapes {[row["shape"] for row in wrong]} {wrong[0].get("failed", "")}' if wrong else '')
