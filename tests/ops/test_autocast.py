import torch

from mmattn.ops.autocast import autocast_dtype, without_autocast

CPU, META = torch.device('cpu'), torch.device('meta')


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
