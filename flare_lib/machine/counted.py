"""How messages count things: "1 case", "3 cases"."""


def counted(n: int, noun: str) -> str:
    """Return "1 case" or "3 cases", for any noun whose plural ends in a mere s; of none, "0 cases"."""
    return f"{n} {noun}{'s' * (n != 1)}"
