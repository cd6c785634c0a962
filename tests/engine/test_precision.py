import torch
from torch import nn

from mmattn.engine.precision import keep_in_float32, widened


def test_weights_stay_in_float32_and_products_do_not(runner):
    seen = []
    training = runner(optim_wrapper=dict(type='mmattn.BFloat16OptimWrapper', accumulative_counts=2))
    training.model.first.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    training.train()
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}


def test_what_needs_float32_gets_and_gives_it(monkeypatch):
    seen = []

    class Part(nn.Module):
        def forward(self, x, pair=()):
            seen.append([t.dtype for t in (x, *pair)])
            return [x.bfloat16(), (x.bfloat16(), None)]

    x, whole = torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=int)
    for room, taken, given in (('mmcv.ops.roi_align', torch.float32, torch.bfloat16),
                               ('mmseg.models.losses.dice_loss', torch.float32, torch.bfloat16),
                               ('mmdet.models.dense_heads.rpn_head', torch.bfloat16, torch.float32),
                               ('mmdet.models.necks.fpn', torch.bfloat16, torch.bfloat16)):
        monkeypatch.setattr(Part, '__module__', room)
        part = Part()
        keep_in_float32(part)
        one, (other, none) = part(x, pair=(x, whole))
        assert seen.pop() == [taken, taken, torch.int64]
        assert (one.dtype, other.dtype, none) == (given, given, None)


def test_widening_keeps_what_it_does_not_know():
    text, double = 'a', torch.ones(1, dtype=torch.float64)
    assert widened([text, {'b': double}]) == [text, {'b': double}]
