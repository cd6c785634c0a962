"""Pure functions on tensors: no parameters, no registry, nothing but torch and einops.

Those with several implementations choose one by a table (see `mmattn.ops.dispatch`); `explain` says which, and why.
"""
from collections.abc import Callable
from typing import Any


def explain(op: Callable[..., Any], *args: object, **kwargs: object) -> str:
    """For a human: see `mmattn.ops.dispatch.explain`."""
    from mmattn.ops import dispatch  # here, so that importing this module needs no torch
    return dispatch.explain(op, *args, **kwargs)
