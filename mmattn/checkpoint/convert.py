"""Turn authors' checkpoints into ours, and fit a checkpoint to a model."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Size, Tensor

from mmattn.checkpoint.comparing import HasState, compare
from mmattn.errors import CheckpointError, some

BACKBONE = 'backbone.'
PARTS = 'stem', 'stages', 'downsamples', 'norms'       # of our backbones; authors' files have others, too
TABLES = 'rpe_table', 'relative_position_bias_table'
CLASSIFIER = 'neck.', 'head.'       # what comes behind the backbone in a classifier

Translate = Callable[[str, Tensor], tuple[str | None, Tensor]]


@dataclass
class Conversion:
    """What became of the entries of a checkpoint.

    Args:
        state: parameters under our names.
        prefix: what stands before the names of the backbone, 'backbone.' or nothing.
        renamed: their name -> ours, where it differs.
        dropped: entries that are derived or that the model has no use for.
        resized: our name -> (their shape, our shape).
    """
    state: dict[str, Tensor]
    prefix: str = ''
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    resized: dict[str, tuple[Size, Size]] = field(default_factory=dict)

    @property
    def backbone(self) -> dict[str, Tensor]:
        """The parameters of the backbone, named as in the backbone alone."""
        return {name.removeprefix(self.prefix): value for name, value in self.state.items()
                if name.startswith(self.prefix)}

    def __str__(self) -> str:
        renamed = {old: new for old, new in self.renamed.items() if new in self.state}      # others were dropped later
        lines = [*(f'renamed {old} -> {new}' for old, new in renamed.items()),
                 *(f'dropped {name}' for name in self.dropped),
                 *(f'resized {name} {list(old)} -> {list(new)}' for name, (old, new) in self.resized.items())]
        kept = len(self.state) - len(renamed)
        total = f'{len(renamed)} renamed, {kept} kept, {len(self.dropped)} dropped, {len(self.resized)} resized'
        return '\n'.join([*lines, total])


def convert(state: Mapping[str, Tensor], translate: Translate) -> Conversion:
    """Authors' names -> ours. In the file of a whole detector or segmentor the backbone is converted and everything
    else kept: necks and heads have the same names in all versions of mmdet and mmseg. The file of a classifier, whose
    norm and head lie beside the stages, becomes one of mmpretrain's `ImageClassifier` with `NormalizedPooling`.

    Args:
        state: the authors' parameters.
        translate: our name and value for a backbone parameter; the name is '' to drop it, None if unknown, and starts
            as `CLASSIFIER` says for what a classifier has behind the backbone.

    Raises:
        CheckpointError: names that `translate` does not know, some of them named.
    """
    theirs = BACKBONE if any(key.startswith(BACKBONE) for key in state) else ''
    inside = {key: translate(key.removeprefix(theirs), value) for key, value in state.items() if key.startswith(theirs)}
    classifies = not theirs and any((name or '').startswith(CLASSIFIER) for name, _ in inside.values())
    result, unknown = Conversion({}, BACKBONE if classifies else theirs), []
    for key, value in state.items():
        if key not in inside:
            result.state[key] = value
            continue
        name, value = inside[key]
        if name is None:
            unknown.append(key)
        elif name == '' or (theirs and name.startswith(CLASSIFIER)):
            result.dropped.append(key)
        else:
            name = name if name.startswith(CLASSIFIER) else result.prefix + name
            result.state[name] = value
            if name != key:
                result.renamed[key] = name
    if unknown:
        raise CheckpointError(f'{len(unknown)} of {len(state)} names are not of this family: {some(unknown)}')
    return result


def fit(conversion: Conversion, model: HasState, left_out: Callable[[str], bool] | None = None) -> None:
    """Make a checkpoint fit a backbone exactly, but for output norms, which no classifier has, and for modules that a
    class of the user's has beside `PARTS`.

    Bias tables of another size are resized by bicubic interpolation, as the authors' loading code does. What authors'
    models hold but never use is dropped: offset networks where points do not move, layer scales of convolution blocks.

    Args:
        conversion: changed in place.
        model: the backbone.
        left_out: which parameters to drop because the model does not build them, such as `Pyramid.left_out`.

    Raises:
        CheckpointError: a shape differs that is not a bias table's, or parameters are missing or left over; some of
            them are named.
    """
    prefix, state = conversion.prefix, conversion.state
    found = compare(conversion.backbone, model)
    targets = model.state_dict()
    for name, shapes in found.other_shape.items():
        conversion.resized[prefix + name] = shapes
        state[prefix + name] = resize(prefix + name, state[prefix + name], shapes[1])
    extra = []
    for name in found.unknown:
        if _is_unused(name, targets) or (left_out and left_out(name)):
            conversion.dropped.append(prefix + name)
            del state[prefix + name]
        else:
            extra.append(prefix + name)
    missing = [prefix + name for name in found.missing if name.partition('.')[0] in PARTS
               and not name.startswith('norms.')]
    for what, wrong in (('lacks', missing), ('has in addition', extra)):
        if wrong:
            raise CheckpointError('the checkpoint is of another architecture: '
                                  f'it {what} {len(wrong)} parameters: {some(wrong)}')


def resize(name: str, value: Tensor, shape: Size) -> Tensor:
    """A bias table of another map or window size."""
    leaf = name.rpartition('.')[2]
    if leaf == 'rpe_table' and value.ndim == 3 and len(value) == shape[0]:
        return F.interpolate(value[None].float(), shape[1:], mode='bicubic')[0].to(value.dtype)
    if leaf == 'relative_position_bias_table' and value.ndim == 2 and value.shape[1] == shape[1]:
        old, new = (round(n ** 0.5) for n in (len(value), shape[0]))
        image = value.float().t().unflatten(1, (old, old))
        return F.interpolate(image[None], (new, new), mode='bicubic')[0].flatten(1).t().to(value.dtype)
    raise CheckpointError(f'{name} has shape {list(value.shape)} in the checkpoint, {list(shape)} in the model')


def _is_unused(name: str, targets: Mapping[str, Tensor]) -> bool:
    """Whether it belongs to an offset network, or to a layer scale, that the model has in no such layer."""
    layer, _, leaf = name.rpartition('offset.')
    if leaf and f'{layer}proj_q.weight' in targets:
        return not any(target.startswith(f'{layer}offset.') for target in targets)
    block, _, leaf = name.rpartition('scale')
    return leaf in ('1.gamma', '2.gamma') and f'{block}conv.weight' in targets
