"""Which implementation of an op runs.

An op that has several keeps them in a table, `Implementations`, a row for each, the fastest first. Every row takes the
arguments of the op. A row may have refusals, reasons why it cannot run on these arguments, and reservations, reasons
why it can but is not taken unless someone asks for it. The first row with neither runs, or else the one that the table
names as its fallback. The argument `backend` of the op asks for a row by its name; where it is None, the environment
variable of the table does.

A new implementation is a new row: a function, its refusals, and how many numbers of a kind it may hold at a time, on
the CPU and elsewhere, which the function gets as keywords. What is chosen, and why, is logged to 'mmattn' at the level
DEBUG, once for each problem, but not while a compiler traces.
"""
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]

from mmattn.errors import ArgumentError

LOGGER = logging.getLogger('mmattn')
OPS: dict[str, 'Implementations'] = {}     # of every op that has been imported, by its name
_logged: set[str] = set()


def is_traced() -> bool:
    """Whether calls are recorded by torch.compile, torch.export or torch.jit.trace, and with them by ONNX: none of them
    records a backward pass of its own, or a choice that looks at values."""
    return torch.compiler.is_compiling() or is_tracing()


def are_symbols(sizes: Iterable[object]) -> bool:
    """Whether some of the sizes are symbols of torch.export. What asks for their values keeps the graph to the sizes
    that answer alike; so branches and loops over them have a form without."""
    return any(isinstance(size, torch.SymInt) for size in sizes)


@dataclass(frozen=True)
class Budget:
    """How many numbers of a kind may exist at a time.

    Args:
        cpu: on the CPU; about what its caches hold.
        share: on all other devices; of the memory that is free, in numbers of four bytes.
    """
    cpu: int
    share: float

    def on(self, device: torch.device) -> int:
        return self.cpu if device.type == 'cpu' else int(self.share * free_memory(device) / 4)


@cache
def free_memory(device: torch.device) -> int:
    """Bytes that were free on a device when it was first asked, so that a run does not change its ways; 16 GiB where
    it does not say."""
    if device.type == 'cuda' and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    return 16 * 2 ** 30


def none(*args: object) -> list[str]:
    """No reasons."""
    return []


def for_comparison(*args: object) -> list[str]:
    """The reservation of a plain formula."""
    return ['the plain formula, for comparison']


@dataclass(frozen=True)
class Implementation:
    """A row of a table; all functions take the arguments of the op, in its order and without `backend`."""
    run: Callable[..., Tensor]
    refusals: Callable[..., list[str]] = none           # may be slow: called only without reservations, or on request
    reservations: Callable[..., list[str]] = none
    budgets: Mapping[str, Budget] = field(default_factory=dict)         # keyword of `run` -> its budget

    def against(self, *args: object) -> list[str]:
        """Why this row is not taken by itself."""
        return self.reservations(*args) or self.refusals(*args)


class Implementations:
    """A table of the implementations of an op.

    Args:
        op: name of the function.
        variable: environment variable that asks for a row.
        rows: by name, preferred first.
        fallback: the row that runs where every row has something against it, despite its reservations.
    """

    def __init__(self, op: str, variable: str, rows: dict[str, Implementation], *, fallback: str | None = None) -> None:
        self.op = op
        self.variable = variable
        self.rows = rows
        self.fallback = fallback
        OPS[op] = self

    def run(self, backend: str | None, first: Tensor, *rest: object) -> Tensor:
        """What the chosen row gives for the arguments of the op."""
        name = self.choose(backend, first, *rest)
        if not torch.compiler.is_compiling() and LOGGER.isEnabledFor(logging.DEBUG):
            self._log(name, backend, first, *rest)
        row = self.rows[name]
        return row.run(first, *rest, **{key: budget.on(first.device) for key, budget in row.budgets.items()})

    def choose(self, backend: str | None, *args: object) -> str:
        """Name of the row that runs.

        Raises:
            ArgumentError: the row asked for is unknown or refuses; no row can run.
        """
        asked, source = self._asked(backend)
        if asked is None:
            for name, row in self.rows.items():
                if not row.against(*args):
                    return name
            asked, source = self.fallback, self.op
        if asked is None:
            raise ArgumentError(f'{self.op} cannot run: ' + '; '.join(
                f'{name}: {", ".join(row.against(*args))}' for name, row in self.rows.items()))
        if asked not in tuple(self.rows):       # it may be unhashable
            raise ArgumentError(f'{source} is unknown; choose one of {", ".join(sorted(self.rows))}')
        reasons = self.rows[asked].refusals(*args)
        if reasons:
            raise ArgumentError(f'{source} cannot run: {"; ".join(reasons)}')
        return asked

    def explain(self, backend: str | None, *args: object) -> dict[str, str]:
        """Of each row that it runs, or why it does not."""
        chosen = self.choose(backend, *args)
        asked, source = self._asked(backend)
        reasons = {name: '; '.join(row.against(*args)) for name, row in self.rows.items()}
        instead = f'{chosen} comes first' if asked is None else f'{chosen} is asked for'
        why = {name: reason or instead for name, reason in reasons.items()}
        if asked is not None:
            why[chosen] = f'runs, as {source} asks'
        elif reasons[chosen]:
            why[chosen] = f'runs, as the fallback ({reasons[chosen]})'
        else:
            why[chosen] = 'runs'
        return why

    def _asked(self, backend: str | None) -> tuple[str | None, str]:
        """The row that someone asks for, and who."""
        value = os.environ.get(self.variable)
        if backend is None and value:
            return value, f'{self.variable}={value}'
        return backend, f'backend={backend!r}'

    def _log(self, name: str, backend: str | None, first: Tensor, *rest: object) -> None:
        """Say once what runs for such arguments, and why the others do not."""
        why = '; '.join(f'{row}: {reason}' for row, reason in self.explain(backend, first, *rest).items())
        message = f'{self.op} of {_described(first)}: {name} ({why})'
        if message not in _logged:
            _logged.add(message)
            LOGGER.debug(message)


def explain(op: Callable[..., Tensor], *args: object, **kwargs: object) -> str:
    """For a human: which implementation of an op would run, and what speaks against each other one.

    Args:
        op: one of the ops that have several.
        args, kwargs: what it would be called with.

    Returns:
        A line of each implementation.

    Raises:
        ArgumentError: the op has only one; what `backend` or the environment asks for cannot run.

    Example:
        >>> q = torch.rand(1, 2, 32, 64, 8)
        >>> print(explain(deformable_attention, q, q, q, torch.rand(1, 1, 32, 64, 2), torch.rand(2, 9, 9), 'dat'))
        deformable_attention of [1, 2, 32, 64, 8], torch.float32 on cpu
          triton: Triton kernels run on CUDA; q is on cpu
          separable: runs
          dense: separable comes first
          reference: the plain formula, for comparison
    """
    name = getattr(op, '__name__', repr(op))
    if name not in OPS:
        raise ArgumentError(f'op={name} has one implementation; those with several are {", ".join(sorted(OPS))}')
    bound = inspect.signature(op).bind(*args, **kwargs)
    bound.apply_defaults()
    backend = bound.arguments.pop('backend')
    first, *rest = bound.arguments.values()
    why = OPS[name].explain(backend, first, *rest)
    return '\n'.join([f'{name} of {_described(first)}', *(f'  {row}: {reason}' for row, reason in why.items())])


def _described(x: Tensor) -> str:
    size = str(x.shape).removeprefix('torch.Size(').removesuffix(')')       # single sizes are tensors while tracing
    return f'{size}, {x.dtype} on {x.device}'
