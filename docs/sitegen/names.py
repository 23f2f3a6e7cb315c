"""The reference: one page per package of public names, one entry per name.

Sources are read, not imported, so that the reference needs no engine and no torch.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from sitegen.commands import Page

CORE = "eto_gym"
PACKAGES = (
    CORE,
    "eto_gym.agents",
    "eto_gym.trainers",
    "eto_gym.trajectories",
    "eto_gym.vector",
    "eto_gym.testing",
)


@dataclass(frozen=True)
class Package:
    """The public face of a package.

    Attributes:
        name: Its import path.
        text: Its docstring.
        homes: Public name -> path of what it names.
    """

    name: str
    text: str
    homes: dict[str, str]


def pages(root: Path) -> list[Page]:
    """Return the pages of the reference.

    Args:
        root: Folder of the project.
    """
    packages = [read_package(root, name) for name in PACKAGES]
    core = packages[0].homes
    return [_page(package, core if package.name != CORE else {}) for package in packages]


def read_package(root: Path, name: str) -> Package:
    """Read which names a package exports, and from where.

    Raises:
        LookupError: A public name is imported from nowhere and defined nowhere.
    """
    tree = ast.parse((root / Path(*name.split(".")) / "__init__.py").read_text(encoding="utf-8"))
    homes: dict[str, str] = {}
    public: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            homes |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Assign):
            targets = [t.id for t in node.targets if isinstance(t, ast.Name)]
            homes |= {target: f"{name}.{target}" for target in targets}
            if "__all__" in targets:
                public = ast.literal_eval(node.value)
    if missing := [item for item in public if item not in homes]:
        raise LookupError(f"{name} exports {missing}, which it neither imports nor defines")
    found = {item: homes[item] for item in sorted(public, key=str.lower) if item != "__version__"}
    return Package(name, ast.get_docstring(tree) or "", found)


def _page(package: Package, core: dict[str, str]) -> Page:
    lines = [f"# {package.name}", "", package.text, ""]
    elsewhere = []
    for name, home in package.homes.items():
        if name in core:
            elsewhere.append(f"[`{name}`][{core[name]}]")
        else:
            lines += [f"::: {home}", ""]
    if elsewhere:
        lines += [f"Also exported by `{CORE}`: " + ", ".join(elsewhere) + ".", ""]
    return Page(f"reference/{package.name}.md", package.name, "\n".join(lines))
