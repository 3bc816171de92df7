"""How messages count things, "1 case", "3 cases", and name some of many."""

from collections.abc import Sequence

_NAMED = 5  # one line has no room for more


def counted(n: int, noun: str) -> str:
    """Return "1 case" or "3 cases", for any noun whose plural ends in a mere s; of none, "0 cases"."""
    return f"{n} {noun}{'s' * (n != 1)}"


def some_of(texts: Sequence[str], between: str = ", ") -> str:
    """Return the first few texts in one line, and how many more there are; "" for none."""
    more = f"{between}and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return between.join(texts[:_NAMED]) + more
