"""Time and peak memory of a call."""
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mmattn.errors import UsageError


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """How long a call takes, with what it leaves running on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for what runs on a GPU."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def memory(device: torch.device, reset: bool = False) -> int:
    """Peak memory in bytes since the last reset, or what is in use when it is reset."""
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


def apart(module: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Run a module that measures in a process of its own.

    Args:
        module: takes a task as JSON, its only argument, and ends its output with a result as JSON.
        task: what it gets.

    Raises:
        UsageError: it failed; the message is the last line that it wrote.
    """
    child = subprocess.run([sys.executable, '-m', module, json.dumps(task)], capture_output=True, text=True,
                           check=False)
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        raise UsageError(lines[-1].removeprefix('mmattn.errors.UsageError: ') if lines else
                         f'ended with status {child.returncode}')
    return json.loads(child.stdout.splitlines()[-1])
