"""Arguments that a class does not have: an error that names the class, what it was given, and what may be meant."""
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from inspect import Parameter, signature
from reprlib import repr as short

from mmattn.errors import ArgumentError

PRETRAINED = ("weights to start from are init_cfg=dict(type='Pretrained', checkpoint=…) of the backbone; pretrained of "
              'the model is to be None')


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
    """Names of the arguments that the constructors of a class take, from its own up to its `base`'s."""
    constructors = [vars(owner).get('__init__') for owner in kind.__mro__[:kind.__mro__.index(base) + 1]]
    return [name for constructor in filter(None, constructors)
            for name, parameter in signature(constructor).parameters.items()
            if name != 'self' and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
