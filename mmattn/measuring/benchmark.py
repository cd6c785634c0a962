"""Layers and backbones timed in processes of their own: python -m mmattn.measuring.benchmark runs one of them."""
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mmattn import layers
from mmattn.errors import UsageError
from mmattn.measuring.timing import apart, memory, seconds
from mmattn.ops import convolution, deformable, grouped, routing

ROWS = {
    'reference': "the plain formula: bias and weights of all queries and keys held, as in the authors' code",
    'mmattn': 'what runs by default',
    'products': 'its matrix products and convolutions alone: the limit',
    'dense': 'bias held, fused attention',
    'separable': 'bias never held',
    'triton': 'fused CUDA kernels',
    'no-bias': 'attention without position bias: the limit',
    'bf16': 'mmattn under bfloat16 autocast',
    'swin-t': "mmdet's Swin-T, another backbone of the size of the small ones here",
}
OTHERS = ('no-bias', 'products', 'swin-t')      # rows that give other outputs


@dataclass
class Case:
    """What is measured; see the options of `mmattn benchmark`."""
    family: str
    layer: bool
    arch: str | None
    size: tuple[int, int]
    batch: int
    train: bool
    with_cp: bool
    device: str
    iterations: int
    dim: int
    heads: int
    groups: int
    stride: int
    table: int
    windows: int
    topk: int
    interval: int

    @property
    def is_deformable_layer(self) -> bool:
        return self.layer and self.family in ('dat', 'dat_pp')


@dataclass(frozen=True)
class Family:
    """What is measured of a family.

    Args:
        backbone: the name of its class.
        layer: the layer of a case, without position bias where that is asked for.
        ops: the operations whose backends rows name.
        parts: what a case says of its layer, in words.
        windowed: its backbone takes the number of windows, and has batch norms.
    """
    backbone: str
    layer: Callable[[Case, bool], nn.Module]
    ops: Sequence[Any]
    parts: Callable[[Case], str]
    windowed: bool = False


def _deformable(case: Case, biased: bool) -> nn.Module:
    return layers.DeformableAttention(
        case.dim, case.heads, offset_groups=case.groups, stride=case.stride,
        offset_range_factor=2 if case.family == 'dat' else -1, table_size=case.table, convention=case.family,
        position_bias='table' if biased else 'none')


def _routing(case: Case, biased: bool) -> nn.Module:
    return layers.BiLevelRoutingAttention(case.dim, case.heads, num_windows=case.windows, topk=case.topk)


def _agents(case: Case, biased: bool) -> nn.Module:
    return layers.DeformableBiLevelRoutingAttention(
        case.dim, case.heads, offset_groups=case.groups, stride=case.stride, num_windows=case.windows, topk=case.topk,
        table_size=case.table)


def _far(case: Case, biased: bool) -> nn.Module:
    return layers.LongDistanceAttention(case.dim, case.heads, interval=case.interval)


def _in_groups(case: Case) -> str:
    return f'{case.groups} groups'


def _in_windows(case: Case) -> str:
    return f'{case.windows} windows a side, top {case.topk}'


def _in_far_groups(case: Case) -> str:
    return f'groups of 7 x 7, interval {case.interval}'


FAMILIES = {
    'dat': Family('DAT', _deformable, [deformable], _in_groups),
    'dat_pp': Family('DATPlusPlus', _deformable, [deformable], _in_groups),
    'biformer': Family('BiFormer', _routing, [routing], _in_windows, windowed=True),
    'crossformer': Family('CrossFormer', _far, [grouped, convolution], _in_far_groups),
    'crossformer_pp': Family('CrossFormerPlusPlus', _far, [grouped, convolution], _in_far_groups),
    'debiformer': Family('DeBiFormer', _agents, [deformable, routing], _in_windows, windowed=True),
}


def build(case: Case, row: str) -> tuple[nn.Module, Tensor]:
    """The module and its input, with the same random weights in every row."""
    torch.manual_seed(0)
    family, channels = FAMILIES[case.family], case.dim if case.layer else 3
    module: nn.Module
    if case.layer:
        module = family.layer(case, row != 'no-bias')
    elif row == 'swin-t':
        from mmdet.models.backbones import SwinTransformer
        module = SwinTransformer(drop_path_rate=0.0, with_cp=case.with_cp)
        module.train()      # gives nothing back
    else:
        from mmattn import backbones
        # dense training keeps the statistics of batch norms
        options = dict(num_windows=case.windows, norm_eval=True) if family.windowed else {}
        module = getattr(backbones, family.backbone)(case.arch, with_cp=case.with_cp, **options).train()
    x = torch.randn(case.batch, channels, *case.size)
    for name, p in module.named_parameters():
        if name.endswith('rpe_table'):      # as large as trained ones, so that every backend has a bias to get right
            nn.init.normal_(p)
    return module.to(case.device), x.to(case.device)


def measure(case: Case, row: str, phase: str, output: str) -> dict[str, Any]:
    """Time and peak memory of one row in this process; its output goes to a file.

    Args:
        case: what is measured.
        row: a key of `ROWS`.
        phase: 'forward' or 'train'.
        output: the file.

    Returns:
        'threads', '<phase>_seconds', '<phase>_bytes'.
    """
    if row in ('reference', 'dense', 'separable', 'triton'):
        ops = FAMILIES[case.family].ops
        for op in [op for op in ops if row in op.IMPLEMENTATIONS.rows] or ops:      # which then refuse
            os.environ[op.IMPLEMENTATIONS.variable] = row
    elif row == 'products':        # of plain attention; fused kernels do not show theirs
        for op in (deformable, grouped, routing):
            os.environ[op.IMPLEMENTATIONS.variable] = 'reference'
    module, x = build(case, row)
    training = phase == 'train'

    def step(x: Tensor) -> Sequence[Tensor]:
        with torch.set_grad_enabled(training), torch.autocast(x.device.type, torch.bfloat16, row == 'bf16'):
            out = module(x.requires_grad_(training))
        outs = [out] if case.layer else out
        if training:
            torch.stack([o.float().square().mean() for o in outs]).sum().backward()
        return outs

    step(x[..., :32, :32].clone())      # libraries and kernels are loaded; what they take is not the step's
    module.zero_grad()
    before = memory(x.device, reset=True)
    outs = step(x)
    used = memory(x.device) - before
    torch.save([o.detach().float().cpu() for o in outs], output)
    call = products_of(step, x) if row == 'products' else step
    times = []
    for _ in range(case.iterations):
        module.zero_grad()
        times.append(seconds(lambda: call(x), x.device))
    return {'threads': torch.get_num_threads(), f'{phase}_seconds': statistics.median(times),
            f'{phase}_bytes': None if row == 'products' else used}


def products_of(step: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], None]:
    """What runs the matrix products and convolutions of a step again, on numbers of the same shapes and layout."""
    calls: list[tuple[Any, Any, Any]] = []
    numbers: dict[Any, Tensor] = {}

    def stand_in(t: Tensor) -> Tensor:
        key = t.shape, t.stride(), t.dtype
        if key not in numbers:
            numbers[key] = torch.empty_strided(*key[:2], dtype=t.dtype, device=t.device).fill_(0.5)
        return numbers[key]

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ in ('mm', 'addmm', 'bmm', 'baddbmm', 'convolution', 'convolution_backward'):
                calls.append((func, tree_map_only(Tensor, stand_in, args), kwargs or {}))
            return func(*args, **kwargs or {})

    with Record():
        step(x)

    def run_again(_: Tensor) -> None:
        with torch.no_grad():
            for func, args, kwargs in calls:
                func(*args, **kwargs)

    return run_again


def measure_rows(case: Case, rows: Sequence[str], repeat: int) -> list[dict[str, Any]]:
    """Every row, each repetition in a process of its own; repetitions go round the rows, so that a busy spell of the
    machine does not fall on one of them.

    Args:
        case: what is measured.
        rows: keys of `ROWS`; the first is what others are compared with.
        repeat: processes per row.

    Returns:
        for each row the medians of what `measure` gives and the 'difference' of its output from the first row's, or
        'refused', why it cannot run.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: str(Path(folder) / f'{name}.pt') for name in rows}
        for _ in range(repeat):
            for name in rows:
                result: dict[str, Any] = {}
                for phase in ('forward', 'train') if case.train else ('forward',):
                    if name in refused:
                        break
                    task = dict(case=asdict(case), row=name, phase=phase, output=outputs[name])
                    try:
                        result.update(apart('mmattn.measuring.benchmark', task))
                    except UsageError as error:
                        refused[name] = str(error)
                results[name].append(result)
        differences = {name: difference(outputs[name], outputs[rows[0]]) for name in rows
                       if not {name, rows[0]} & set(refused)}
    table = []
    for name in rows:
        row: dict[str, Any] = dict(row=name)
        if name in refused:
            row['refused'] = refused[name]
        else:
            for key in results[name][0]:
                values = [result[key] for result in results[name]]
                row[key] = None if None in values else statistics.median(values)
            if name not in OTHERS and name in differences:
                row['difference'] = differences[name]
        table.append(row)
    return table


def difference(path: str, reference: str) -> float:
    """Relative difference of two outputs, ||a - b|| / ||b||, the largest over the maps."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(torch.load(path), torch.load(reference)))


if __name__ == '__main__':
    task = json.loads(sys.argv[1])
    print(json.dumps(measure(Case(**task.pop('case')), **task)))
