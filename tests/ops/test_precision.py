from types import SimpleNamespace

import torch

from mmattn.ops import precision
from mmattn.ops.precision import autocast_dtype, products_allow_tf32, without_autocast, without_tf32

CPU, META, CUDA = torch.device('cpu'), torch.device('meta'), torch.device('cuda')


def test_products_keep_the_dtype_of_their_inputs_inside():
    x = torch.ones(2, 2)
    with torch.autocast('cpu', torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast(CPU):
            assert (x @ x).dtype == torch.float32


def test_a_device_that_has_no_autocast_is_none_to_complain_about():
    with without_autocast(META):
        assert (torch.ones(2, 2, device=META) @ torch.ones(2, 3, device=META)).shape == (2, 3)


def test_dtype_of_products():
    assert autocast_dtype(CPU, torch.float64) == torch.float64
    with torch.autocast('cpu', torch.float16):
        assert autocast_dtype(CPU, torch.float64) == torch.float16
        assert autocast_dtype(META, torch.float32) == torch.float32


def test_tf32_is_off_inside_and_what_it_was_outside():
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    try:
        for allowed in (True, False):
            conv.fp32_precision = matmul.fp32_precision = 'tf32' if allowed else 'ieee'
            assert products_allow_tf32() == allowed
            with without_tf32(CUDA):
                assert (conv.fp32_precision, matmul.fp32_precision) == ('ieee', 'ieee')
                assert not products_allow_tf32()
            assert products_allow_tf32() == allowed
            with without_tf32(CPU):
                assert products_allow_tf32() == allowed
            assert torch.backends.cudnn.conv.fp32_precision == ('tf32' if allowed else 'ieee')
    finally:
        conv.fp32_precision, matmul.fp32_precision = 'tf32', 'ieee'


def test_switches_of_older_versions(monkeypatch):
    old = SimpleNamespace(cudnn=SimpleNamespace(allow_tf32=True),
                          cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)))
    monkeypatch.setattr(precision.torch, 'backends', old)
    with without_tf32(CUDA):
        assert old.cudnn.allow_tf32 is False
    assert old.cudnn.allow_tf32 is True
    assert old.cuda.matmul.allow_tf32 is False
