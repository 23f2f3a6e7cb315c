"""`eto-gym doctor`: tell what is installed, what works here, and which data is there.

Only a broken core makes it fail: whatever belongs to an extra may be missing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import eto_gym
from eto_gym.downloads import data_home
from eto_gym.errors import EtoGymError
from eto_gym.registration import registered_ids

DISTRIBUTION = "eto-gym"

_NOT_BUILT_IN = ("trajectories", "smollm2")
"""Data for which nothing stands in where it was not downloaded."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: there are none."""


def run(args: argparse.Namespace) -> int:
    """Print what was found; return 0 if the core works, else 1."""
    print(f"eto-gym {eto_gym.__version__}  {Path(eto_gym.__file__).parent}")
    print(f"python  {platform.python_version()}  {sys.executable}")
    print(f"system  {platform.platform()}, {os.cpu_count()} cores")
    core = requirements().pop("", [])
    broken = [line for line in map(_package_problem, core) if line]
    print(f"\ncore    {_versions(core)}")
    broken += list(_broken_environments())
    for line in broken:
        print(f"        BROKEN: {line}")
    if not broken:
        print("        works")
    print("\nextras")
    for extra, names in sorted(requirements().items()):
        if extra:
            print(f"  {extra:<14}{_extra_state(extra, names)}")
    print("\nengines and devices")
    for name, text in (("Java", _java()), ("CUDA", _cuda()), ("browser", _browser())):
        print(f"  {name:<14}{text}")
    print("\ndata")
    for name, text in _data():
        print(f"  {name:<14}{text}")
    print("\ndisk")
    for folder in _folders():
        print(f"  {_free(folder)}")
    return 1 if broken else 0


def requirements() -> dict[str, list[str]]:
    """Return the names of the distributions that every extra asks for; "" is the core's key."""
    wanted: dict[str, list[str]] = {"": []}
    for extra, line in _requirement_lines():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name:
            wanted.setdefault(extra, []).append(name[0])
    return wanted


def _requirement_lines() -> Iterator[tuple[str, str]]:
    """Yield (extra, requirement), from the installation or else from the checkout."""
    project = Path(eto_gym.__file__).parents[1] / "pyproject.toml"
    if _version(DISTRIBUTION) is not None:
        for line in importlib.metadata.requires(DISTRIBUTION) or []:
            spec, _, marker = line.partition(";")
            extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", marker)
            yield extra[1] if extra else "", spec.strip()
    elif project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        yield from (("", line) for line in table["dependencies"])
        for name, lines in table["optional-dependencies"].items():
            yield from ((name, line) for line in lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(names: list[str]) -> str:
    return ", ".join(f"{name} {_version(name) or 'not installed'}" for name in names)


def _package_problem(name: str) -> str | None:
    """Say what is wrong with a package of the core, whose modules are named like it."""
    try:
        importlib.import_module(name)
    except Exception as err:  # a broken package may raise anything when imported
        return f"{name} cannot be imported: {type(err).__name__}: {err}"
    return None


def _broken_environments() -> Iterator[str]:
    """Reset and step the environment that needs no extra and no data."""
    import gymnasium as gym

    try:
        assert registered_ids(), "no environment is registered"
        env: gym.Env[str, str] = gym.make("ETO/ALFWorld-v0", data="builtin:small")
        env.reset(seed=0)
        env.step("look")
        env.close()
    except Exception as err:  # anything at all means that the core does not work
        yield f"ETO/ALFWorld-v0 cannot be played: {type(err).__name__}: {err}"


def _extra_state(extra: str, names: list[str]) -> str:
    missing = [name for name in names if _version(name) is None]
    if missing:
        return f'missing {", ".join(missing)}: pip install "{DISTRIBUTION}[{extra}]"'
    return f"installed: {_versions(names)}"


def _java() -> str:
    try:
        from eto_gym.envs.scienceworld.java import find_java

        java = find_java(None)
    except (EtoGymError, ImportError) as err:
        return str(err).partition("\n")[0]
    return f"{java.version} ({java.path})"


def _cuda() -> str:
    if _version("torch") is None:
        return "unknown: torch is not installed"
    try:
        torch: Any = importlib.import_module("torch")
        if not torch.cuda.is_available():
            return f"no device for torch {torch.__version__}"
        count = torch.cuda.device_count()
        names = (torch.cuda.get_device_name(i) for i in range(count))
        return f"{', '.join(names)} (CUDA {torch.version.cuda})"
    except Exception as err:  # a broken installation of torch may raise anything
        return f"torch is broken: {type(err).__name__}: {err}"


def _browser() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return found or "none (only the tests of the web shop's site use one)"


def _data() -> Iterator[tuple[str, str]]:
    """Yield where downloaded data is kept, and whether there is any."""
    for name, folder in data_folders().items():
        files = [file for file in folder.rglob("*") if file.is_file()]
        if all(".part" in file.suffixes for file in files):
            begun = "; a download was begun" if files else ""
            without = "not downloaded" if name in _NOT_BUILT_IN else "built-in tasks only"
            yield name, f"{without} ({folder} is not there or empty{begun})"
        else:
            size = sum(file.stat().st_size for file in files)
            yield name, f"{folder} ({size / 1e6:,.0f} MB)"


def data_folders() -> dict[str, Path]:
    """Return where what `eto-gym data download` brings is by default."""
    home = data_home()
    return {
        "alfworld": home / "alfworld",
        "alfworld-move": home / "alfworld-move",
        "webshop": home / "webshop",
        "trajectories": home / "eto-trajectories",
        "smollm2": home / "models" / "smollm2",
    }


def _folders() -> list[Path]:
    """Return the folders that the commands write to: the present one and that of the data."""
    return [Path.cwd(), data_home()]


def _free(folder: Path) -> str:
    """Say how much room a folder has; one that is not there yet has its parent's."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return f"{shutil.disk_usage(place).free / 1e9:,.1f} GB free in {folder}"
