from torch import nn

from mmattn.backbones.pyramid import Stage
from mmattn.registry import FUNCTIONS


@FUNCTIONS.register_module()
def wrap_stages(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """A wrap policy of FSDP: a stage of a backbone is gathered while it runs, the rest of the model for the whole step,
    because heads compute their losses beside the `forward` that FSDP gathers for."""
    return recurse or isinstance(module, Stage)
