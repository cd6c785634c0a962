"""Arguments that a class does not have: an error that names the class, what it was given, and what may be meant."""
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from inspect import Parameter, signature
from reprlib import repr as short

from mmattn.errors import ArgumentError

PRETRAINED = ("weights to start from are init_cfg=dict(type='Pretrained', checkpoint=…) of the backbone, with "
              'pretrained=None beside it')


def refuse_unknown(owner: str, unknown: Mapping[str, object], known: Iterable[str]) -> None:
    """Raise ArgumentError if there are unknown arguments.

    Args:
        owner: name of the class that does not have them.
        unknown: the arguments.
        known: names of those that it has.
    """
    if not unknown:
        return
    known, hints = list(known), []
    for name in unknown:
        near = get_close_matches(name, known, n=1, cutoff=0.75)
        if name == 'pretrained':
            hints.append(PRETRAINED)
        elif near:
            hints.append(f'{name} may be meant as {near[0]}')
        else:
            hints.append('arguments of a base config stay unless the new ones have _delete_=True')
    given = ', '.join(f'{name}={short(value)}' for name, value in unknown.items())
    raise ArgumentError(f'{owner} has no argument {given}: {"; ".join(dict.fromkeys(hints))}')


def argument_names(kind: type, base: type) -> list[str]:
    """Names of the arguments that the constructors of a class take, from its own up to the keyword-only ones of its
    `base`."""
    names = []
    for owner in kind.__mro__[:kind.__mro__.index(base) + 1]:
        own = vars(owner).get('__init__')
        for name, parameter in signature(own).parameters.items() if own else ():
            if parameter.kind == Parameter.KEYWORD_ONLY or (
                    owner is not base and parameter.kind == Parameter.POSITIONAL_OR_KEYWORD and name != 'self'):
                names.append(name)
    return names
