"""Plans with something else in one value's place: what no program writes, and a stranger's file may hold."""

import copy
import math

ANYTHING = [None, math.inf, math.nan, -1, 0, 2.5, 10**30, 1e300, "x", [], {}, [None], True]


def with_anything_in_every_place(original):
    """Yield the plans with each of their values, at any depth, replaced by what no program ever wrote there."""
    for place in places_in(original):
        for value in ANYTHING:
            changed = copy.deepcopy(original)
            part = changed
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = value
            yield changed


def places_in(part, before=()):
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        yield (*before, key)
        yield from places_in(value, (*before, key))
