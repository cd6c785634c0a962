"""Turn authors' checkpoints into ours, and fit a checkpoint to a model."""
from dataclasses import dataclass, field

import torch.nn.functional as F

from mmattn.errors import CheckpointError

BACKBONE = 'backbone.'
PARTS = 'stem', 'stages', 'downsamples', 'norms'       # of our backbones; authors' files have others, too


@dataclass
class Conversion:
    """What became of the entries of a checkpoint.

    Args:
        state (dict[str, Tensor]): parameters under our names.
        prefix (str): what stands before the names of the backbone, 'backbone.' or nothing.
        renamed (dict[str, str]): their name -> ours, where it differs.
        dropped (list[str]): entries that are derived or that the model has no use for.
        resized (dict[str, tuple]): our name -> (their shape, our shape).
    """
    state: dict
    prefix: str = ''
    renamed: dict = field(default_factory=dict)
    dropped: list = field(default_factory=list)
    resized: dict = field(default_factory=dict)

    def __str__(self):
        renamed = {old: new for old, new in self.renamed.items() if new in self.state}      # others were dropped later
        lines = [*(f'renamed {old} -> {new}' for old, new in renamed.items()),
                 *(f'dropped {name}' for name in self.dropped),
                 *(f'resized {name} {list(old)} -> {list(new)}' for name, (old, new) in self.resized.items())]
        kept = len(self.state) - len(renamed)
        total = f'{len(renamed)} renamed, {kept} kept, {len(self.dropped)} dropped, {len(self.resized)} resized'
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
    result, unknown = Conversion({}, prefix), []
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
        raise CheckpointError(f'{len(unknown)} of {len(state)} names are not of this family: {_some(unknown)}')
    return result


def fit(conversion, model, left_out=None):
    """Make a checkpoint fit a backbone exactly, but for output norms, which no classifier has.

    Bias tables of another size are resized by bicubic interpolation, as the authors' loading code does. What authors'
    models hold but never use is dropped: offset networks where points do not move, layer scales of convolution blocks.

    Args:
        conversion (Conversion): changed in place.
        model (nn.Module): the backbone.
        left_out (Callable[[str], bool] | None): which parameters to drop because the model does not build them, such
            as `Pyramid.left_out`.

    Raises:
        CheckpointError: a shape differs that is not a bias table's, or parameters are missing or left over; some of
            them are named.
    """
    prefix, state = conversion.prefix, conversion.state
    targets = {prefix + name: value for name, value in model.state_dict().items()}
    extra = []
    for name in [name for name in state if name.startswith(prefix)]:
        if name in targets:
            if state[name].shape != targets[name].shape:
                conversion.resized[name] = (state[name].shape, targets[name].shape)
                state[name] = _resize(name, state[name], targets[name].shape)
        elif _is_unused(name, targets) or (left_out and left_out(name.removeprefix(prefix))):
            conversion.dropped.append(name)
            del state[name]
        else:
            extra.append(name)
    missing = [name for name in targets if name not in state and not name.startswith(f'{prefix}norms.')]
    for what, wrong in (('lacks', missing), ('has in addition', extra)):
        if wrong:
            raise CheckpointError('the checkpoint is of another architecture: '
                                  f'it {what} {len(wrong)} parameters: {_some(wrong)}')


def _resize(name, value, shape):
    """A bias table of another map or window size."""
    leaf = name.rpartition('.')[2]
    if leaf == 'rpe_table' and value.ndim == 3 and len(value) == shape[0]:
        return F.interpolate(value[None].float(), shape[1:], mode='bicubic')[0].to(value.dtype)
    if leaf == 'relative_position_bias_table' and value.ndim == 2 and value.shape[1] == shape[1]:
        old, new = (round(n ** 0.5) for n in (len(value), shape[0]))
        image = value.float().t().unflatten(1, (old, old))
        return F.interpolate(image[None], (new, new), mode='bicubic')[0].flatten(1).t().to(value.dtype)
    raise CheckpointError(f'{name} has shape {list(value.shape)} in the checkpoint, {list(shape)} in the model')


def _is_unused(name, targets):
    layer, _, leaf = name.rpartition('offset.')
    if leaf and f'{layer}proj_q.weight' in targets:
        return not any(target.startswith(f'{layer}offset.') for target in targets)
    block, _, leaf = name.rpartition('scale')
    return leaf in ('1.gamma', '2.gamma') and f'{block}conv.weight' in targets


def _some(names):
    return ', '.join(names[:5]) + (', …' if len(names) > 5 else '')


def load_backbone(model, state, translate):
    """Load the backbone of a checkpoint, ours or the authors', into `model`.

    Args:
        model (Pyramid): the backbone.
        state (dict[str, Tensor]): parameters of a backbone, classifier, detector or segmentor.
        translate (Callable): as in `convert`.

    Returns:
        Conversion

    Raises:
        CheckpointError: as `convert` and `fit`.
    """
    if any(key.startswith(BACKBONE) for key in state):
        state = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    conversion = _fitted(model, state, translate)
    model.load_state_dict(conversion.state, strict=False)
    return conversion


def _fitted(model, state, translate):
    conversion = convert(state, translate) if is_foreign(state) else Conversion(dict(state))
    fit(conversion, model, model.left_out)
    return conversion


def is_foreign(names):
    """Whether these are not (all) parameters of a backbone of ours."""
    return any(name.partition('.')[0] not in PARTS for name in names)


def translate_on_load(model, state, prefix, *_):
    """Pre-hook of `load_state_dict`: where the backbone's parameters are the authors', replace them by ours."""
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not is_foreign(own):
        return
    conversion = _fitted(model, own, model.translate)
    for name in own:
        del state[prefix + name]
    state.update({prefix + name: value for name, value in conversion.state.items()})
