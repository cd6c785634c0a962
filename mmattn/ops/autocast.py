"""Autocast on any device, those included that have none."""
from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside this context, operations on `device` run in the dtype of their inputs. PyTorch's own context raises on
    devices that have no autocast, as 'meta'."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def autocast_dtype(device: torch.device, otherwise: torch.dtype) -> torch.dtype:
    """The dtype that autocast gives products on `device`; `otherwise` where it is off."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return otherwise
