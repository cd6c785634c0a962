"""Kernel calls and host synchronisations of a training step on a GPU, counted without one.

python -m tests.calls [--without-triton]    a table of backbones and layers

Tensors of the device 'meta' have no numbers: code that looks at one on the host, with `.item()`, `.tolist()`,
`nonzero` or a mask as an index, raises; what comes from the host, as a tensor made of a list, is a copy between
devices and is counted. They take the ways of a GPU, but for what asks for CUDA itself: fused attention, kernels and
autocast have stand-ins here.
"""
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from importlib import import_module
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mmattn.ops import fused

KERNEL_MODULES = ('deformable', 'neighborhood', 'routing')
# no kernel of their own
FREE = {'empty', 'empty_like', 'new_empty', 'empty_strided', 'new_empty_strided', 'detach', 'alias', '_unsafe_view',
        'is_same_size', '_reshape_alias', 'lift_fresh'}
LOWER = [(F, 'linear'), (F, 'conv2d'), (torch, 'conv2d'), (torch, 'matmul'), (torch, 'bmm'), (torch, 'baddbmm'),
         (torch.Tensor, 'matmul'), (torch.Tensor, '__matmul__')]
FLOAT32 = [(F, 'layer_norm'), (F, 'group_norm'), (F, 'softmax'), (torch, 'softmax'), (torch.Tensor, 'softmax')]


class Calls(TorchDispatchMode):
    """Counts what would be launched, what would wait for the device, and how many bytes exist at most."""

    def __init__(self):
        super().__init__()
        self.kernels, self.waits = Counter(), Counter()
        self.peak = self.now = 0
        self.live = {}

    def _hold(self, t):
        """A tensor exists from here on, until nothing refers to its memory."""
        storage = t.untyped_storage()
        key, size = StorageWeakRef(storage), storage.nbytes()
        known = self.live.get(key.cdata)
        if known and not known[0].expired():
            return
        self.now += size - (known[1] if known else 0)
        self.live[key.cdata] = key, size
        if self.now > self.peak:
            for gone in [cdata for cdata, (ref, _) in self.live.items() if ref.expired()]:
                self.now -= self.live.pop(gone)[1]
            self.peak = max(self.peak, self.now)

    @property
    def total(self):
        return sum(self.kernels.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        devices = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)
                   if t.device.type == 'meta' or t.dim()}       # a number may come along with the launch
        if len(devices) > 1:
            self.waits[name] += 1
        if 'meta' in devices and not func.is_view and name not in FREE:
            self.kernels[name] += 1
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self._hold(t)
        return out


class _Attention(torch.autograd.Function):
    """One fused kernel forward, and three backward: gradients of q and of k and v, and a sum per query."""
    calls = None

    @staticmethod
    def forward(ctx, q, k, v, bias):
        ctx.save_for_backward(q, k, v, bias)
        _Attention.calls.kernels['attention'] += 1
        return q.new_empty(*q.shape[:-1], v.shape[-1])

    @staticmethod
    def backward(ctx, grad):
        q, k, v, bias = ctx.saved_tensors
        _Attention.calls.kernels['attention backward'] += 3
        grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = bias.new_empty(*q.shape[:-1], k.shape[-2]).sum_to_size(bias.shape)
        return *map(torch.empty_like, (q, k, v)), grad_bias


class _Autocast:
    """What CUDA's autocast to bfloat16 casts; weights once a pass."""

    def __init__(self):
        self.enabled, self.cache = True, {}

    def cast(self, t, dtype):
        if not t.is_floating_point() or t.dtype in (dtype, torch.float64):
            return t
        if t.is_leaf and t.requires_grad and dtype == torch.bfloat16:
            return self.cache.setdefault(id(t), t.to(dtype))
        return t.to(dtype)

    def casting(self, function, dtype):
        def call(*args, **kwargs):
            if self.enabled:
                args, kwargs = tree_map_only(torch.Tensor, lambda t: self.cast(t, dtype), (args, kwargs))
            return function(*args, **kwargs)
        return call


@contextmanager
def counted(*, triton=True, bfloat16=False):
    """Count what runs on 'meta' tensors inside as it would on a GPU, with or without Triton; gives `Calls`."""
    calls, autocast = Calls(), _Autocast()
    _Attention.calls = calls

    def attention(q, k, v, attn_mask=None, dropout_p=0.0, scale=None):
        if bfloat16 and autocast.enabled:
            q, k, v, attn_mask = (t if t is None or t.dtype == torch.bool else autocast.cast(t, torch.bfloat16)
                                  for t in (q, k, v, attn_mask))
        return _Attention.apply(q, k, v, attn_mask)

    @contextmanager
    def switch(device_type, dtype=None, enabled=True, cache_enabled=None):
        before = autocast.enabled
        if device_type != 'cpu':
            autocast.enabled = enabled
        yield
        autocast.enabled = before

    def launch(kernel, grid, device, *args, **options):
        calls.kernels[kernel.__name__] += 1

    def from_host(function, goes):
        """`function`, counted where the device gets what Python made."""
        def call(*args, **kwargs):
            calls.waits[function.__name__] += goes(args, kwargs)
            return function(*args, **kwargs)
        return call

    def to_meta(args, kwargs):
        return torch.device(kwargs.get('device') or 'cpu').type == 'meta'

    def self_is_meta(args, kwargs):
        return args[0].is_meta

    def has_list(args, kwargs):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return args[0].is_meta and any(isinstance(part, list) for part in index)

    with ExitStack() as stack:
        def replace(place, name, value):
            stack.enter_context(mock.patch.object(place, name, value))

        for place, name, goes in ((torch, 'tensor', to_meta), (torch, 'as_tensor', to_meta),
                                  (torch.Tensor, 'new_tensor', self_is_meta), (torch.Tensor, '__getitem__', has_list),
                                  (torch.Tensor, '__setitem__', has_list)):
            replace(place, name, from_host(getattr(place, name), goes))

        replace(F, 'scaled_dot_product_attention', attention)
        replace(fused, 'is_interpreted', lambda: False)
        for name in KERNEL_MODULES if triton else ():
            op, kernels = import_module(f'mmattn.ops.{name}'), import_module(f'mmattn.ops.kernels.{name}')
            replace(op, 'kernel_refusals', lambda tensors, dims: [])
            replace(kernels, 'trial', lambda *args: None)
            replace(kernels, 'launch', launch)
        if bfloat16:
            replace(torch.amp, 'is_autocast_available', lambda kind: True)
            replace(torch, 'is_autocast_enabled', lambda kind: autocast.enabled)
            replace(torch, 'get_autocast_dtype', lambda kind: torch.bfloat16)
            replace(torch, 'autocast', switch)
            replace(torch.amp, 'autocast', switch)
            for places, dtype in ((LOWER, torch.bfloat16), (FLOAT32, torch.float32)):
                for place, name in places:
                    replace(place, name, autocast.casting(getattr(place, name), dtype))
            calls.autocast = autocast
        stack.enter_context(calls)
        yield calls


def step(module, x, **options):
    """`Calls` of a forward and backward pass of a module on a map or image like x."""
    module = module.to('meta').train()
    x = x.to('meta').requires_grad_()
    with counted(**options) as calls:
        out = module(x)
        outs = [out] if isinstance(out, torch.Tensor) else list(out)
        if options.get('bfloat16'):
            calls.autocast.enabled = False
        torch.autograd.backward(outs, [torch.empty_like(o) for o in outs])
    return calls


def main():
    from mmattn.backbones import DAT, BiFormer, CrossFormer, DATPlusPlus
    triton = '--without-triton' not in sys.argv
    options = dict(recompute_mlp=True) if '--recompute-mlp' in sys.argv else {}
    image = torch.empty(2, 3, 800, 1280, device='meta')
    for name, build in (('DAT-T', lambda: DAT('tiny', **options)),
                        ('DAT++-T', lambda: DATPlusPlus('tiny', **options)),
                        ('BiFormer-S', lambda: BiFormer('small', num_windows=16, **options)),
                        ('CrossFormer-S', lambda: CrossFormer('small', **options))):
        for bfloat16 in (False, True):
            calls = step(build(), image, triton=triton, bfloat16=bfloat16)
            print(f'{name:14} {"bfloat16" if bfloat16 else "float32":9} kernel calls {calls.total:6}  waits '
                  f'{sum(calls.waits.values())}  {calls.peak / 2 ** 20:6.0f} MiB', flush=True)
            if '--verbose' in sys.argv:
                print('   ', calls.kernels.most_common(40), calls.waits)


if __name__ == '__main__':
    main()
