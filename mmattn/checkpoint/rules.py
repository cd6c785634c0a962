"""Rename by rules: pairs of a pattern and a name, or a function of the match; the first whole match wins."""
import re


def apply_rules(rules, key):
    """The name that the rules give to a key; None where no rule matches."""
    for pattern, name in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return name(match) if callable(name) else match.expand(name)
    return None


def apply_inside(prefix, rules, key):
    """The same behind a prefix, which is left out where the name is empty or none."""
    name = apply_rules(rules, key)
    return prefix + name if name else name
