"""The versions that are tested are those that pyproject.toml allows, and it ends where they do."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = ("train", "openai", "sb3")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def allowed(*extras: str) -> list[Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize(
    "file", ["constraints.txt", "constraints-oldest.txt", "constraints-newest.txt"]
)
def test_what_is_tested_is_allowed(file: str) -> None:
    extras = PROJECT["optional-dependencies"] if file == "constraints.txt" else EXTRAS
    pins = pinned(file)
    missing = {"inspect-ai", "verifiers"}  # in environments of their own: see the test below
    for wanted in allowed(*extras):
        name = canonicalize_name(wanted.name)
        if name not in missing:
            assert pins[name] in wanted.specifier, f"{file}: {wanted}"


@pytest.mark.parametrize(
    ("file", "extra"),
    [("constraints-openenv.txt", "inspect"), ("constraints-interop.txt", "verifiers")],
)
def test_what_has_an_environment_of_its_own_is_pinned_there(file: str, extra: str) -> None:
    (wanted,) = map(Requirement, PROJECT["optional-dependencies"][extra])
    assert pinned(file)[canonicalize_name(wanted.name)] in wanted.specifier


def test_the_oldest_versions_are_the_floors() -> None:
    pins = pinned("constraints-oldest.txt")
    for wanted in allowed(*EXTRAS):
        floors = [s.version for s in wanted.specifier if s.operator in (">=", "==")]
        assert len(floors) == 1, wanted
        if wanted.name != "torch":  # one version everywhere: others come with CUDA alone
            assert pins[canonicalize_name(wanted.name)] == Version(floors[0]), wanted


def test_the_newest_versions_are_no_older_than_those_of_every_day() -> None:
    daily, newest = pinned("constraints.txt"), pinned("constraints-newest.txt")
    for wanted in allowed(*EXTRAS):
        name = canonicalize_name(wanted.name)
        assert newest[name] >= daily[name], name


def test_what_is_known_to_go_has_a_ceiling() -> None:
    for extra, requirements in PROJECT["optional-dependencies"].items():
        for wanted in map(Requirement, requirements):
            if wanted.name == "transformers":
                assert Version("5.40") not in wanted.specifier, extra
            if wanted.name == "jsonargparse":
                assert Version("5.0") not in wanted.specifier, extra


def test_the_readme_names_every_extra() -> None:
    install = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Install\n")[2]
    extras = set(PROJECT["optional-dependencies"]) - {"dev", "docs"}
    assert {extra for extra in extras if f"`{extra}`" not in install} == set()
