"""Turn authors' checkpoints into ours, and fit a checkpoint to a model."""
from dataclasses import dataclass, field

import torch.nn.functional as F

from mmattn.checkpoint.reading import CheckpointError

BACKBONE = 'backbone.'


@dataclass
class Conversion:
    """What became of the entries of a checkpoint.

    Args:
        state (dict[str, Tensor]): parameters under our names.
        renamed (dict[str, str]): their name -> ours, where it differs.
        dropped (list[str]): entries that are derived or that the model has no use for.
        resized (dict[str, tuple]): our name -> (their shape, our shape).
    """
    state: dict
    renamed: dict = field(default_factory=dict)
    dropped: list = field(default_factory=list)
    resized: dict = field(default_factory=dict)

    def __str__(self):
        lines = [*(f'renamed {old} -> {new}' for old, new in self.renamed.items()),
                 *(f'dropped {name}' for name in self.dropped),
                 *(f'resized {name} {list(old)} -> {list(new)}' for name, (old, new) in self.resized.items())]
        kept = len(self.state) - len(self.renamed)
        total = f'{len(self.renamed)} renamed, {kept} kept, {len(self.dropped)} dropped, {len(self.resized)} resized'
        return '\n'.join([*lines, total])


def convert(state, translate):
    """Authors' names -> ours. In the file of a whole detector or segmentor the backbone is converted and everything
    else kept: necks and heads have the same names in all versions of mmdet and mmseg.

    Args:
        state (dict[str, Tensor]): the authors' parameters.
        translate (Callable[[str, Tensor], tuple[str | None, Tensor]]): our name and value for a backbone parameter;
            the name is '' to drop it, None if unknown.

    Returns:
        Conversion

    Raises:
        CheckpointError: names that `translate` does not know, some of them named.
    """
    prefix = BACKBONE if any(key.startswith(BACKBONE) for key in state) else ''
    result, unknown = Conversion({}), []
    for key, value in state.items():
        if not key.startswith(prefix):
            result.state[key] = value
            continue
        name, value = translate(key.removeprefix(prefix), value)
        if name is None:
            unknown.append(key)
        elif name == '':
            result.dropped.append(key)
        else:
            result.state[prefix + name] = value
            if prefix + name != key:
                result.renamed[key] = prefix + name
    if unknown:
        some = ', '.join(unknown[:5]) + (', …' if len(unknown) > 5 else '')
        raise CheckpointError(f'{len(unknown)} of {len(state)} names are not of this family: {some}')
    return result


def fit(conversion, model):
    """Resize what differs in size between a checkpoint and a model, and drop what authors' models hold but never use:
    offset networks where points do not move, layer scales of convolution blocks.

    Bias tables are resized by bicubic interpolation, as the authors' loading code does.

    Args:
        conversion (Conversion): changed in place.
        model (nn.Module): its names are those of the checkpoint.

    Raises:
        CheckpointError: a shape differs that is not a bias table's.
    """
    targets = model.state_dict()
    for name, value in list(conversion.state.items()):
        if name not in targets:
            if _is_unused(name, targets):
                conversion.dropped.append(name)
                del conversion.state[name]
            continue
        shape = targets[name].shape
        if value.shape == shape:
            continue
        leaf = name.rpartition('.')[2]
        if leaf == 'rpe_table' and value.ndim == 3 and len(value) == shape[0]:
            resized = F.interpolate(value[None].float(), shape[1:], mode='bicubic')[0]
        elif leaf == 'relative_position_bias_table' and value.ndim == 2 and value.shape[1] == shape[1]:
            sides = [round(n ** 0.5) for n in (len(value), shape[0])]
            image = value.float().t().unflatten(1, (sides[0], sides[0]))
            resized = F.interpolate(image[None], (sides[1], sides[1]), mode='bicubic')[0].flatten(1).t()
        else:
            raise CheckpointError(f'{name} has shape {list(value.shape)} in the checkpoint, {list(shape)} in the model')
        conversion.state[name] = resized.to(value.dtype)
        conversion.resized[name] = (value.shape, shape)


def _is_unused(name, targets):
    layer, _, leaf = name.rpartition('offset.')
    if leaf and f'{layer}proj_q.weight' in targets:
        return not any(target.startswith(f'{layer}offset.') for target in targets)
    block, _, leaf = name.rpartition('scale')
    return leaf in ('1.gamma', '2.gamma') and f'{block}conv.weight' in targets


def load_backbone(model, state, translate):
    """Load the backbone of a checkpoint, ours or the authors', into `model`.

    Output norms, which no classifier has, may be missing, and stages behind the last of `out_indices` may be too many.

    Returns:
        Conversion

    Raises:
        CheckpointError: unknown names, other shapes, or parameters missing or left over, some of them named.
    """
    if any(key.startswith(BACKBONE) for key in state):
        state = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    names = set(model.state_dict())
    conversion = Conversion(dict(state)) if names & set(state) else convert(state, translate)
    fit(conversion, model)
    missing = [name for name in names - set(conversion.state) if not name.startswith('norms.')]
    extra = [name for name in set(conversion.state) - names if not model.left_out(name)]
    for what, wrong in (('lacks', missing), ('has in addition', extra)):
        if wrong:
            some = ', '.join(sorted(wrong)[:5]) + (', …' if len(wrong) > 5 else '')
            raise CheckpointError('the checkpoint is of another architecture: '
                                  f'it {what} {len(wrong)} parameters: {some}')
    model.load_state_dict(conversion.state, strict=False)
    return conversion
