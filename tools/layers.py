"""The house, measured: levels of imports, arrows against the order of the rooms, circles. `make layers` runs it.

  python -m tools.layers [DIRECTORY]

Reads every import of stoical and data_prep, also those inside functions and under TYPE_CHECKING. Exit status 1 where an
import goes against the order below, or where files or rooms import each other in a circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ORDER = (  # from the top down: a room imports only rooms below it, never one beside it
    ("commands",),
    ("self_training", "preferences", "soft_prompts"),
    ("training", "ranker", "evaluating"),
    ("baselines",),
    ("build", "runs", "studies"),
    ("config", "reporting"),
    ("objectives", "evaluation"),
    ("decoding",),
    ("models",),
    ("encoding", "data_prep"),
    ("data",),
    ("trie", "docids"),
    ("common",),
)
ONLY = {"data_prep": {"data", "docids", "common"}}  # what these may import at all
WITHOUT_TORCH = ("trie", "data", "common", "data_prep")  # rooms that may not name torch or transformers
LEVEL = {room: level for level, rooms in enumerate(reversed(ORDER)) for room in rooms}
Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Dotted name to file of every module of the two packages."""
    files = [*(root / "stoical").rglob("*.py"), *(root / "data_prep").rglob("*.py")]
    found = {".".join(file.relative_to(root).with_suffix("").parts): file for file in sorted(files)}
    return {name.removesuffix(".__init__"): file for name, file in found.items()}


def imports(name: str, file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The known modules that a module imports; `from package import name` counts as the module `name` if it is one."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if inner in known or source in known:
                    yield inner if inner in known else source


def room_of(module: str) -> str | None:
    """The room of a module: the folder or file below `stoical`, `data_prep`; None for the packages' own faces."""
    parts = module.split(".")
    if parts[-1] == "__main__":
        return "commands"
    if parts[0] == "data_prep":
        return "data_prep"
    return parts[1] if len(parts) > 1 else None


def against(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The imports that go against the order, as `importer -> imported`."""
    found = []
    for module, targets in graph.items():
        for target in sorted(targets):
            above, below = room_of(module), room_of(target)
            if above is None or below is None or above == below:
                continue
            unknown = [room for room in (above, below) if room not in LEVEL]
            if unknown:
                found.append(f"{module} -> {target} ({unknown[0]} is not a room of ORDER)")
            elif not _allowed(above, below):
                found.append(f"{module} -> {target}")
    return found


def _allowed(above: str, below: str) -> bool:
    if above in ONLY:
        return below in ONLY[above]
    return LEVEL[above] > LEVEL[below]


def circles(graph: Graph) -> list[list[str]]:
    """The strongly connected sets of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def depth(graph: Graph) -> int:
    """How many levels of imports there are: the longest way down, circles counted as one."""
    member = {node: circle[0] for circle in circles(graph) for node in circle}
    levels: dict[str, int] = {}

    def level(node: str) -> int:
        if node not in levels:
            levels[node] = 0
            below = {
                member.get(target, target) for one in graph if member.get(one, one) == node for target in graph[one]
            }
            levels[node] = 1 + max((level(target) for target in below - {node}), default=0)
        return levels[node]

    return max(level(member.get(node, node)) for node in graph)


def names_torch(files: Mapping[str, Path]) -> list[str]:
    """Modules of the rooms WITHOUT_TORCH that import torch or transformers when they are imported."""
    found = []
    for module, file in files.items():
        if room_of(module) in WITHOUT_TORCH and module != "stoical.common.lazy":
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                source = node.module if isinstance(node, ast.ImportFrom) else None
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [source or ""]
                found += [f"{module} -> {n}" for n in names if n.split(".")[0] in ("torch", "transformers")]
    return found


def main(root: Path) -> int:
    """Print the measurements; the exit status."""
    files = modules(root)
    graph = {name: set(imports(name, file, files)) - {name} for name, file in files.items()}
    rooms: Graph = {}
    for module, targets in graph.items():
        if (room := room_of(module)) is not None:
            own = rooms.setdefault(room, set())
            own |= {other for target in targets if (other := room_of(target)) not in (None, room)}
    for room in [room for targets in rooms.values() for room in targets]:
        rooms.setdefault(room, set())
    wrong, of_files, of_rooms, heavy = against(graph), circles(graph), circles(rooms), names_torch(files)
    print(f"{len(files)} files in {len(rooms)} rooms; {depth(graph)} levels of imports by file, {depth(rooms)} by room")
    print(f"arrows against the order: {len(wrong)}; circles of files: {len(of_files)}; of rooms: {len(of_rooms)}")
    for line in (*wrong, *(f"circle: {', '.join(circle)}" for circle in (*of_files, *of_rooms)), *heavy):
        print(f"  {line}")
    return int(bool(wrong or of_files or of_rooms or heavy))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
