"""The tensors of a checkpoint beside those of a model, by name and shape."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Size, Tensor

from mmattn.errors import some


class HasState(Protocol):
    """A module, as far as its parameters and buffers are concerned."""

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters and buffers."""


@dataclass
class Comparison:
    """Which tensors a model takes from a checkpoint.

    Args:
        taken: names that both have, of one shape.
        missing: names that only the model has.
        unknown: names that only the checkpoint has.
        other_shape: name -> (shape in the checkpoint, in the model), where they differ.
    """
    taken: list[str]
    missing: list[str]
    unknown: list[str]
    other_shape: dict[str, tuple[Size, Size]]

    @property
    def is_same(self) -> bool:
        """Whether both have the same names and shapes."""
        return not (self.missing or self.unknown or self.other_shape)

    def __str__(self) -> str:
        total = len(self.taken) + len(self.missing) + len(self.other_shape)
        shapes = [f'{name} {list(theirs)} instead of {list(ours)}' for name, (theirs, ours) in self.other_shape.items()]
        reasons = [f'{len(names)} {what} ({some(names, 2)})' for what, names in (
            ('missing', self.missing), ('unknown', self.unknown), ('of another shape', shapes)) if names]
        return ': '.join([f'{len(self.taken)} of {total} tensors are taken', *filter(None, [', '.join(reasons)])])


def compare(state: Mapping[str, Tensor], model: HasState) -> Comparison:
    """Compare names and shapes of a state dict with those of a model's parameters and buffers.

    A file with the authors' names goes through `mmattn.checkpoint.loading.compare_as_loaded`.
    """
    ours = {name: value.shape for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    both = [name for name in ours if name in state]
    return Comparison(taken=[name for name in both if state[name].shape == ours[name]],
                      missing=[name for name in ours if name not in state],
                      unknown=[name for name in state if name not in ours],
                      other_shape={name: (state[name].shape, ours[name]) for name in both
                                   if state[name].shape != ours[name]})
