"""How messages count things, "1 case", "3 cases", and name some of many."""

from collections.abc import Sequence


def counted(n: int, noun: str) -> str:
    """Return "1 case" or "3 cases", for any noun whose plural ends in a mere s; of none, "0 cases"."""
    return f"{n} {noun}{'s' * (n != 1)}"


def some_of(texts: Sequence[str], between: str = ", ", *, most: int = 5) -> str:
    """Return the first texts in one line, at `most` so many, and how many more there are; "" for none."""
    more = f"{between.rstrip(', ')} and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more
