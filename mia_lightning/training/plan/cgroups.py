"""The control groups (cgroups) of Linux around this process, by which a container limits what it may use."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OF_PROCESS = Path("/proc/self/cgroup")


def cgroups(controller: str) -> Iterator[Path]:
    """Folders of the groups of both versions that may limit this process, of each hierarchy the innermost first.

    Some need not exist: a container may see its own group as the root, and be named by a path from another one.

    Args:
        controller: such as `cpu`.
    """
    try:
        lines = OF_PROCESS.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for root in [ROOT / controllers, ROOT / controller] if controllers else [ROOT]:
            for group in (place := root / own.lstrip("/"), *place.parents):
                if not group.is_relative_to(root):
                    break
                yield group
