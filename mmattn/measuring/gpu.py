"""What a GPU makes of the ops: how fast it is at simple things, whether every implementation is right on it, how long
each takes. `python -m mmattn.measuring.gpu TASK` runs one task, so that a crash costs no other.

Needs torch, einops and, for the kernels, Triton; whole backbones need MMEngine.
"""
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmattn import layers
from mmattn.measuring.timing import memory, seconds, synchronize
from mmattn.ops import deformable, grouped, neighborhood, routing
from mmattn.ops.dispatch import OPS
from mmattn.ops.fused import is_installed
from mmattn.ops.partition import ceil_div

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
ALLOWED = {'float32': 2e-5, 'bfloat16': 4e-2, 'float16': 5e-3}     # relative errors; where products take TF32, more
TABLE = 27          # entries of a position bias table along each side
LONGEST = 120       # seconds of a task


@dataclass(frozen=True)
class Problem:
    """Arguments of an op: tensors with gradients, and the rest in the order of the op, tensors by their names."""
    tensors: Mapping[str, Tensor]
    call: Callable[..., Tensor]                                 # of the tensors and `backend`


def _deformable(size: tuple[int, int], keys: tuple[int, int], dims: int, convention: str) -> Problem:
    heads, groups = 4, 2
    points = torch.rand(2, groups, *keys, 2) * 2.4 - 1.2
    return Problem(
        dict(q=torch.randn(2, heads, *size, dims), k=torch.randn(2, heads, *keys, dims),
             v=torch.randn(2, heads, *keys, dims), points=points, table=torch.randn(heads, 9, 13)),
        lambda q, k, v, points, table, backend: deformable.deformable_attention(
            q, k, v, points, table, convention, backend=backend))


def _routed(grid: tuple[int, int], region: tuple[int, int], dims: int, weighted: bool) -> Problem:
    heads, count = 2, 3
    size = grid[0] * region[0], grid[1] * region[1]
    routes = torch.rand(2, *grid, grid[0] * grid[1]).topk(count).indices
    tensors = {name: torch.randn(2, *size, heads * dims) for name in 'qkv'}
    if weighted:
        tensors['weights'] = torch.rand(2, *grid, count)

    def call(q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None = None, backend: str | None = None) -> Tensor:
        return routing.routed_attention(q, k, v, routes.to(q.device), heads, dims ** -0.5, weights, backend=backend)
    return Problem(tensors, call)


def _neighborhood(size: tuple[int, int], kernel: int, dims: int) -> Problem:
    tensors = {name: torch.randn(2, 3, *size, dims) for name in 'qkv'}
    tensors['table'] = torch.randn(3, 2 * kernel - 1, 2 * kernel - 1)
    return Problem(tensors, lambda q, k, v, table, backend: neighborhood.neighborhood_attention(
        q, k, v, table, kernel, backend=backend))


def _grouped(size: tuple[int, int], group: tuple[int, int], interval: int) -> Problem:
    channels, heads = 64, 2
    tensors = dict(x=torch.randn(2, *size, channels), qkv=torch.randn(3 * channels, channels) / 8,
                   qkv_bias=torch.randn(3 * channels), proj=torch.randn(channels, channels) / 8,
                   proj_bias=torch.randn(channels), table=torch.randn(heads, 2 * group[0] - 1, 2 * group[1] - 1))
    return Problem(tensors, lambda x, qkv, qkv_bias, proj, proj_bias, table, backend: grouped.grouped_attention(
        x, (qkv, qkv_bias), (proj, proj_bias), table, heads, interval, backend))


# Odd sizes, of which the first is tiny.
PROBLEMS: dict[str, list[Callable[[], Problem]]] = {
    'deformable_attention': [partial(_deformable, *args) for args in (
        ((1, 3), (2, 2), 32, 'dat'), ((23, 37), (11, 17), 32, 'dat'), ((17, 50), (9, 50), 64, 'dat_pp'),
        ((13, 21), (13, 21), 24, 'dat'), ((9, 20), (7, 11), 128, 'dat_pp'))],
    'routed_attention': [partial(_routed, *args) for args in (
        ((1, 3), (1, 1), 32, False), ((4, 5), (5, 4), 32, False), ((4, 4), (13, 20), 32, True),
        ((3, 3), (9, 7), 24, True), ((3, 3), (5, 7), 128, False))],
    'neighborhood_attention': [partial(_neighborhood, *args) for args in (
        ((1, 3), 7, 32), ((23, 37), 7, 32), ((8, 50), 5, 64), ((9, 17), 13, 24), ((13, 13), 3, 128))],
    'grouped_attention': [partial(_grouped, *args) for args in (
        ((1, 3), (2, 2), 1), ((23, 37), (7, 7), 1), ((25, 40), (5, 8), 5), ((23, 37), (7, 7), 4))],
}


@dataclass(frozen=True)
class Layer:
    """A layer of a published model at one of its stages."""
    op: str
    channels: int
    stride: int                                                 # of the stage
    build: Callable[..., nn.Module] = field(repr=False)

    def map(self, settings: 'Settings') -> Tensor:
        """What it reads of the images, in the memory order that backbones give."""
        size = [ceil_div(side, self.stride) for side in settings.size]
        x = torch.randn(settings.batch, self.channels, *size, device=settings.device)
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def module(self, backend: str | None) -> nn.Module:
        return self.build(self.channels, self.channels // 32, backend=backend)


LAYERS = {
    'DAT-T stage 3': Layer('deformable_attention', 384, 16, partial(
        layers.DeformableAttention, offset_groups=3, offset_kernel_size=5, table_size=14)),
    'DAT-T stage 4': Layer('deformable_attention', 768, 32, partial(
        layers.DeformableAttention, offset_groups=6, offset_kernel_size=3, table_size=7)),
    'DAT++-T stage 1': Layer('deformable_attention', 64, 4, partial(
        layers.DeformableAttention, stride=8, offset_kernel_size=9, offset_range_factor=-1, table_size=56,
        convention='dat_pp')),
    'DAT++-T stage 3': Layer('deformable_attention', 256, 16, partial(
        layers.DeformableAttention, offset_groups=4, stride=2, offset_kernel_size=5, offset_range_factor=-1,
        table_size=14, convention='dat_pp')),
    'DAT++-T stage 1, N': Layer('neighborhood_attention', 64, 4, layers.NeighborhoodAttention),
    'DAT++-T stage 3, N': Layer('neighborhood_attention', 256, 16, layers.NeighborhoodAttention),
    'BiFormer-S stage 1': Layer('routed_attention', 64, 4, partial(
        layers.BiLevelRoutingAttention, num_windows=16, topk=1)),
    'BiFormer-S stage 2': Layer('routed_attention', 128, 8, partial(
        layers.BiLevelRoutingAttention, num_windows=16, topk=4)),
    'BiFormer-S stage 3': Layer('routed_attention', 256, 16, partial(
        layers.BiLevelRoutingAttention, num_windows=16, topk=16)),
    'CrossFormer-S stage 1, S': Layer('grouped_attention', 96, 4, layers.ShortDistanceAttention),
    'CrossFormer-S stage 1, L': Layer('grouped_attention', 96, 4, partial(layers.LongDistanceAttention, interval=8)),
    'CrossFormer-S stage 3, L': Layer('grouped_attention', 384, 16, partial(layers.LongDistanceAttention, interval=2)),
}
# What kernels may take at a time instead, of half precision and 32 channels: part of the record, '' for all of it, ->
# other values of its fields.
TILES: dict[str, dict[str, list[dict[str, int]]]] = {
    'deformable_attention': {
        'forward': [dict(rows=8, warps=8), dict(keys=32), dict(keys=128, warps=8)],
        'queries': [dict(keys=64), dict(rows=8, warps=8)],
        'keys': [dict(rows=4, keys=32), dict(warps=8)],
        'patches': [dict(warps=8), dict(keys=32), dict(rows=2)]},
    'routed_attention': {
        '': [dict(tokens=32), dict(tokens=128, warps=8), dict(places=32), dict(places=128, warps=8)]},
    'neighborhood_attention': {
        '': [dict(rows=8, warps=2), dict(rows=8, warps=4), dict(keys=32), dict(columns=16, warps=2)]},
}
BACKBONES = {'DAT-T': ('DAT', 'tiny', {}), 'DAT++-T': ('DATPlusPlus', 'tiny', {}),
             'BiFormer-S': ('BiFormer', 'small', dict(num_windows=16)), 'CrossFormer-S': ('CrossFormer', 'small', {})}


@dataclass(frozen=True)
class Settings:
    """What all tasks share.

    Args:
        device: where they run.
        size: (height, width) of the image that layers and backbones are timed on.
        batch: images.
        iterations: timed runs of each.
    """
    device: str = 'cuda'
    size: tuple[int, int] = (800, 1280)
    batch: int = 2
    iterations: int = 5


def calibrate(settings: Settings) -> Iterator[dict[str, Any]]:
    """Copy bandwidth, products, the cost of a launch, and atomic additions into a small table."""
    device = torch.device(settings.device)
    big = 2 ** 28 if device.type == 'cuda' else 2 ** 22

    def best(call: Callable[[], object]) -> float:
        call()
        return min(seconds(call, device) for _ in range(settings.iterations))

    a, b = torch.ones(2, big, device=device)
    yield dict(what='copy', gigabytes_a_second=2 * 4 * big / best(lambda: b.copy_(a)) / 1e9)
    side = 8192 if device.type == 'cuda' else 512
    for name, dtype in DTYPES.items():
        m = torch.randn(side, side, device=device, dtype=dtype)
        yield dict(what=f'product, {name}', teraflops=2 * side ** 3 / best(partial(torch.mm, m, m)) / 1e12)
    small = torch.ones(1, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)
    yield dict(what='launch', microseconds=best(launches) * 1e3)
    table, index = torch.zeros(TABLE ** 2, device=device), torch.randint(TABLE ** 2, (big // 16,), device=device)
    more = torch.ones(len(index), device=device)
    yield dict(what=f'atomic additions into {TABLE} x {TABLE}',
               billions_a_second=len(index) / best(lambda: table.index_add_(0, index, more)) / 1e9)


def check(settings: Settings, op: str) -> Iterator[dict[str, Any]]:
    """Every implementation of an op, dtype and odd shape beside the plain formula in float64: relative error of the
    output and of the worst gradient, and whether three runs agree to the bit. What was freed before is full of NaN, so
    that a number that nobody writes shows."""
    device = torch.device(settings.device)
    for number, make in enumerate(PROBLEMS[op]):
        torch.manual_seed(number)
        problem = make()
        exact = {name: t.double().to(device) for name, t in problem.tensors.items()}
        for dtype in DTYPES:
            for backend in OPS[op].rows:
                if backend != 'reference':
                    result: dict[str, Any] = dict(what=op, shape=number, dtype=dtype, backend=backend)
                    try:
                        result.update(_compared(problem, exact, device, DTYPES[dtype], backend))
                    except ValueError as error:         # it says itself why it cannot run
                        result['refused'] = str(error)
                    except Exception as error:
                        result['failed'] = f'{type(error).__name__}: {str(error).splitlines()[:1]}'
                    else:
                        worst = max(result['output'], *result['gradients'].values())
                        result['ok'] = worst <= ALLOWED[dtype]
                    yield result


def _compared(problem: Problem, exact: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype,
              backend: str) -> dict[str, Any]:
    def run(tensors: Mapping[str, Tensor], backend: str) -> list[Tensor]:
        inputs = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        out = problem.call(**inputs, backend=backend)
        weights = torch.linspace(-1, 2, out.numel(), dtype=torch.double, device=device).view_as(out).to(dtype)
        return [out.detach(), *torch.autograd.grad(out, list(inputs.values()), weights.to(out.dtype))]

    kept = ('points', 'table', 'weights')      # float32 always, as layers give them
    low = {name: t.to(torch.float32 if name in kept else dtype) for name, t in exact.items()}
    wanted = run({name: t.double() for name, t in low.items()}, 'reference')
    runs = []
    for _ in range(3):
        for power in range(8, 24 if device.type == 'cuda' else 12):
            torch.full((2 ** power,), torch.nan, device=device)
        runs.append(run(low, backend))
    errors = [((result.double() - right).norm() / right.norm().clamp(min=1e-6)).item()
              for result, right in zip(runs[0], wanted)]
    return dict(output=errors[0], gradients=dict(zip(low, errors[1:])),
                same_bits=all(torch.equal(a, b) for again in runs[1:] for a, b in zip(runs[0], again)))


def time_layer(settings: Settings, name: str) -> Iterator[dict[str, Any]]:
    """Every implementation of a layer: forward, forward and backward, peak memory, kernel calls."""
    layer = LAYERS[name]
    # the plain formula of neighbourhoods takes one query at a time
    rows = [row for row in OPS[layer.op].rows if (layer.op, row) != ('neighborhood_attention', 'reference')]
    for dtype in ('float32', 'bfloat16'):
        for backend in rows:
            torch.manual_seed(0)
            yield _timed(dict(what=name, dtype=dtype, backend=backend), partial(layer.module, backend),
                         layer.map(settings), dtype, settings)


def time_tiles(settings: Settings, op: str) -> Iterator[dict[str, Any]]:
    """The kernels of an op with other sizes of what a program takes at a time, in bfloat16."""
    module = import_module(f'mmattn.ops.kernels.{op.removesuffix("_attention").replace("routed", "routing")}')
    name = next(name for name, layer in LAYERS.items() if layer.op == op)
    layer = LAYERS[name]
    x = layer.map(settings)
    usual = module.TILES[2, 32]
    for part, tile in [('', {}), *((part, tile) for part, tiles in TILES[op].items() for tile in tiles)]:
        other = {part: getattr(usual, part)._replace(**tile)} if part else tile
        module.TILES[2, 32] = usual._replace(**other)
        label = ' '.join([part, *(f'{key}={value}' for key, value in tile.items())]).strip() or 'usual'
        yield _timed(dict(what=name, dtype='bfloat16', backend='triton', tiles=label),
                     partial(layer.module, 'triton'), x, 'bfloat16', settings)


def time_backbone(settings: Settings, name: str) -> Iterator[dict[str, Any]]:
    """A whole backbone as it runs by default, and with the plain formulas as in the authors' code."""
    if find_spec('mmengine') is None:
        yield dict(what=name, refused='MMEngine is not installed')
        return
    from mmattn import backbones
    kind, arch, options = BACKBONES[name]
    device = torch.device(settings.device)
    for row in ('default', 'deterministic', 'reference'):
        for table in OPS.values():
            os.environ[table.variable] = 'reference' if row == 'reference' else ''
        torch.use_deterministic_algorithms(row == 'deterministic', warn_only=True)
        for dtype in DTYPES if row == 'default' else ('bfloat16',):
            torch.manual_seed(0)
            x = torch.randn(settings.batch, 3, *settings.size, device=device, requires_grad=True)
            yield _timed(dict(what=name, dtype=dtype, backend=row),
                         partial(getattr(backbones, kind), arch, **options), x, dtype, settings)


def _timed(result: dict[str, Any], build: Callable[[], nn.Module], x: Tensor, dtype: str,
           settings: Settings) -> dict[str, Any]:
    """`result` with what a step of a module takes, or why there is none."""
    device = x.device
    try:
        module = build().to(device).train()

        def forward() -> Any:
            with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != 'float32'):
                out = module(x)
            return [out] if isinstance(out, Tensor) else out

        def step() -> None:
            torch.stack([o.float().square().mean() for o in forward()]).sum().backward()

        step()
        with torch.no_grad():
            result['forward_ms'] = 1e3 * statistics.median(seconds(forward, device) for _ in range(settings.iterations))
        before = memory(device, reset=True)
        step()
        result['peak_mib'] = (memory(device) - before) / 2 ** 20
        result['step_ms'] = 1e3 * statistics.median(seconds(step, device) for _ in range(settings.iterations))
        result['kernel_calls'] = _kernel_calls(step, device)
    except ValueError as error:
        result['refused'] = str(error)
    except Exception as error:
        result['failed'] = f'{type(error).__name__}: {str(error).splitlines()[:1]}'
    return result


def _kernel_calls(step: Callable[[], None], device: torch.device) -> int | None:
    if device.type != 'cuda':
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        synchronize(device)
    return sum(event.count for event in profile.key_averages())


TASKS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    'calibrate': calibrate, 'check': check, 'layer': time_layer, 'tiles': time_tiles, 'backbone': time_backbone}
PLAN = [('calibrate',), *(('check', op) for op in PROBLEMS), *(('layer', name) for name in LAYERS),
        *(('backbone', name) for name in BACKBONES), *(('tiles', op) for op in TILES)]


def report(settings: Settings, path: Path, minutes: float, plan: Sequence[tuple[str, ...]] = PLAN,
           say: Callable[[str], object] = print) -> dict[str, Any]:
    """Run all tasks, each in a process of its own, one after the other; what is known is in a file at any time.

    Args:
        settings: of the tasks.
        path: the file, JSON.
        minutes: what does not fit into them is left out, and named.
        plan: tasks and their arguments.
        say: told of each task.

    Returns:
        what is in the file: 'device', 'torch', 'triton', 'results', and 'left_out', tasks with the reason.
    """
    device = torch.device(settings.device)
    whole: dict[str, Any] = dict(
        device=torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type, torch=torch.__version__,
        triton=version('triton') if is_installed() else None, settings=vars(settings), results=[], left_out={})
    end = time.monotonic() + 60 * minutes
    for task in plan:
        name, left = ' '.join(task), end - time.monotonic()
        if left < 5:
            whole['left_out'][name] = f'{minutes} minutes were over'
            continue
        start = time.monotonic()
        command = [sys.executable, '-m', 'mmattn.measuring.gpu', json.dumps(dict(task=task, settings=vars(settings)))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=min(left, LONGEST))
            stdout, lines = done.stdout, done.stderr.strip().splitlines() or [f'it ended with status {done.returncode}']
            reason = lines[-1] if done.returncode else None
        except subprocess.TimeoutExpired as error:
            stdout = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ''
            reason = f'it was stopped after {error.timeout:.0f} s'
        if reason:
            whole['left_out'][name] = reason
        whole['results'] += [json.loads(line) for line in stdout.splitlines() if line.startswith('{')]
        path.write_text(json.dumps(whole, indent=1))
        say(f'{name}: {reason or "done"}, {time.monotonic() - start:.0f} s')
    path.write_text(json.dumps(whole, indent=1))
    return whole


def main(argument: str) -> None:
    """Run a task and print a line of JSON for each result."""
    given = json.loads(argument)
    name, *args = given['task']
    settings = Settings(**{**given['settings'], 'size': tuple(given['settings']['size'])})
    for result in TASKS[name](settings, *args):
        print(json.dumps(result), flush=True)


if __name__ == '__main__':
    main(sys.argv[1])
