import torch


def assert_same(ours, plain, inputs, **tolerance):
    """Two computations give the same values and the same gradients of `inputs`."""
    torch.testing.assert_close(ours, plain, **tolerance)
    weights = torch.randn_like(ours)
    inputs = [t for t in inputs if t.requires_grad]
    for i, (a, b) in enumerate(zip(torch.autograd.grad((ours * weights).sum(), inputs),
                                   torch.autograd.grad((plain * weights).sum(), inputs))):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda message, i=i: f'gradient of input {i}: {message}')
