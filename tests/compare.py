import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def assert_same(ours, plain, inputs, **tolerance):
    """Two computations give the same values and the same gradients of `inputs`."""
    torch.testing.assert_close(ours, plain, **tolerance)
    weights = torch.randn_like(ours)
    inputs = [t for t in inputs if t.requires_grad]
    for i, (a, b) in enumerate(zip(torch.autograd.grad((ours * weights).sum(), inputs),
                                   torch.autograd.grad((plain * weights).sum(), inputs))):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda message, i=i: f'gradient of input {i}: {message}')


def check_pyramid(model, dims, batch, size):
    """A backbone gives finite maps of the declared shapes for images of `size`, and every parameter a gradient."""
    x = torch.randn(batch, 3, *size, requires_grad=True)
    outs = model(x)
    for i, (out, channels) in enumerate(zip(outs, dims, strict=True)):
        assert out.shape == (batch, channels, *(-(-side // (4 * 2 ** i)) for side in size))
        assert out.isfinite().all()
        assert out.is_contiguous()      # mmcv's RoIAlign reads other layouts wrongly, and says nothing
    check_trains(outs, [x, *model.parameters()])


def check_trains(outs, tensors):
    """Every tensor gets a finite gradient from outs."""
    sum(out.square().sum() for out in outs).backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors)


class largest_tensor(TorchDispatchMode):
    """Inside this context, `numel` is the size of the largest tensor that any operation gave; a view is at most as
    large as what it looks at."""
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(min(t.numel(), t.untyped_storage().nbytes() // t.itemsize)
                                        for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out
