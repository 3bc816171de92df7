"""What was measured once, in hours, for notebooks that run in a minute: the JSON files of `benchmarks/results`."""

from pathlib import Path
from typing import Any

from flare_lib.machine.json_file import read_json_object


def stored_results(path: str | Path) -> dict[str, Any]:
    """Return a stored result: `path` is your own file, or one of the repository's, "benchmarks/results/NAME.json".

    It is looked for in the working directory and the folders above it, then in those above the library. Raises
    FileNotFoundError if it is in none of them, and the errors of `read_json_object`.
    """
    tops = (*Path("notebook").absolute().parents, *Path(__file__).parents)
    found = next((top / path for top in tops if (top / path).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"a stored result must be a file, here or in the repository, got {path}")
    return read_json_object(found)
