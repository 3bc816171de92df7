"""What Linux's control groups leave to this process: a container or a batch job may have far less than its machine.

A process belongs to a group, which lies within others up to the root. Each has its own limits, and the tightest counts.
References: https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1 (older
systems, where every kind of limit has a tree of its own and other names).
"""

import math
from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_memory_bytes(root: Path = ROOT, own: Path = OWN) -> float:
    """Return how many bytes of memory this process's groups may still take; infinity if nothing limits them.

    Files cached in memory do not count as taken: the system frees them when needed. `root`: where the groups are
    mounted; `own`: the file that says which of them the process belongs to.
    """
    left = math.inf
    for group in _groups("memory", root, own):
        limits = ("memory.max", "memory.high", "memory.limit_in_bytes")  # above memory.high a process is slowed down
        most = min(_number(group / limit) for limit in limits)
        used = min(_number(group / use) for use in ("memory.current", "memory.usage_in_bytes"))
        if math.isfinite(most) and math.isfinite(used):
            left = min(left, max(0.0, most - used + _cached_bytes(group)))
    return left


def n_cores(root: Path = ROOT, own: Path = OWN) -> float:
    """Return how many cores this process's groups may keep busy, perhaps a fraction; infinity if nothing limits it."""
    cores = math.inf
    for group in _groups("cpu", root, own):
        try:
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            quota, period = (_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):  # neither "max" nor -1
            cores = min(cores, int(quota) / int(period))
    return cores


def _groups(kind: str, root: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups that limit memory or cpu, the root's first; some may not exist."""
    yield from (root, root / kind)  # in a container these may be its own, whatever they are called outside
    for line in _text(own).splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        group = root / kind if kinds else root
        for name in Path(path).parts[1:]:
            group /= name
            yield group


def _number(path: Path) -> float:
    """Return the number in a file; infinity if there is none."""
    text = _text(path)
    return int(text) if text.isdecimal() else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:  # another system, another version, the root
        return ""


def _cached_bytes(group: Path) -> int:
    """Return how many of the bytes that a group uses are files cached in memory."""
    stat = dict(line.split(maxsplit=1) for line in _text(group / "memory.stat").splitlines() if " " in line)
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
