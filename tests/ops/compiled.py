"""Kernels compiled for GPUs that need not be there, and what the machine code uses.

The kernels that a problem launches are recorded on tensors of the device 'meta' and compiled in a process of their own,
where Triton does not interpret.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

TARGETS = (80, 86, 90)
POINTERS = {torch.float32: '*fp32', torch.float16: '*fp16', torch.bfloat16: '*bf16', torch.int32: '*i32',
            torch.int64: '*i64', torch.bool: '*i1', torch.float64: '*fp64'}


def recorded(module, call):
    """What `call` launches of a kernel module, [(kernel, args, options)]; nothing runs: its tensors may be 'meta'."""
    launches = []
    original = module.launch
    module.launch = lambda kernel, grid, device, *args, **options: launches.append((kernel, args, options))
    try:
        call()
    finally:
        module.launch = original
    return launches


def compiled(kernel, args, options, capability):
    """Registers a thread, bytes spilled, bytes of shared memory of a block."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    meta = {name: value for name, value in options.items() if name not in kernel.arg_names}
    names = [name for name in kernel.arg_names if name not in constants]
    assert len(names) == len(args), (names, len(args))
    signature, attributes = {}, {}
    for name, value in [*zip(names, args), *constants.items()]:
        place = kernel.arg_names.index(name),
        any_number = kernel.params[place[0]].do_not_specialize
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[place] = [['tt.divisibility', 16]]
        elif name in constants or value is None or (type(value) is int and value == 1 and not any_number):
            signature[name] = 'constexpr'
            constants[name] = value
        elif isinstance(value, float):
            signature[name] = 'fp32'
        else:
            signature[name] = 'i32' if abs(value) < 2 ** 31 else 'i64'
            if value % 16 == 0 and not any_number:
                attributes[place] = [['tt.divisibility', 16]]
    signature = {name: signature[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=attributes)
    binary = triton.compile(source, target=GPUTarget('cuda', capability, 32), options=meta)
    tools = Path(triton.__file__).parent / 'backends/nvidia/bin'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'kernel.cubin'
        path.write_bytes(binary.asm['cubin'])
        usage = subprocess.run([tools / 'cuobjdump', '--dump-resource-usage', path], capture_output=True, text=True,
                               check=True).stdout
        code = subprocess.run([tools / 'nvdisasm', '-c', path], capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r'REG:(\d+) STACK:(\d+)', usage).groups())
    return dict(registers=registers, stack=stack, spills=len(re.findall(r'\b(?:LDL|STL)\b', code)),
                shared=binary.metadata.shared)


def usage_of(module, problem, **arguments):
    """[dict] of every launch of a problem of a kernel module and every target, compiled in a process of its own.

    Args:
        module: name of a module of `mmattn.ops.kernels`.
        problem: 'tests.module:function' that makes the launches, on tensors of the device 'meta'.
        arguments: of the function, in JSON; a dtype is named as 'float16'.
    """
    environment = {key: value for key, value in os.environ.items() if key != 'TRITON_INTERPRET'}
    task = json.dumps(dict(module=module, problem=problem, arguments=arguments))
    done = subprocess.run([sys.executable, '-m', 'tests.ops.compiled', task], env=environment, capture_output=True,
                          text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_fits(usages):
    """Without spills, in the registers and the shared memory that every target has."""
    for usage in usages:
        assert usage['spills'] == 0, usage
        assert usage['stack'] == 0, usage
        assert usage['registers'] <= 255, usage
        assert usage['shared'] <= 99 * 1024, usage


def main(task):
    from importlib import import_module
    module = import_module(f'mmattn.ops.kernels.{task["module"]}')
    where, name = task['problem'].split(':')
    problem = getattr(import_module(where), name)
    for kernel, args, options in recorded(module, lambda: problem(**task['arguments'])):
        for capability in TARGETS:
            use = compiled(kernel, args, options, capability)
            print(json.dumps(dict(kernel=kernel.__name__, capability=capability, **task['arguments'], **use)))


if __name__ == '__main__':
    main(json.loads(sys.argv[1]))
