"""Presets and other settings files: values with their sources, by method and environment.

A file holds settings by name, nested as in the settings class, as `--dry-run` prints them. Besides:

* `extends: NAME_OR_FILE` begins with the values of another file;
* `trainings` holds settings that every training of the method takes, but for the tiny model's base;
* `sections` lists further settings in groups: each has a `source`, which says where its values come
  from, and may have `methods`, the only ones that it is for;
* a value that depends on the environment is a mapping by short name, with `otherwise` for the rest.

A preset is such a file, and lies in `preset_files`.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from eto_gym.errors import DataError, check_choice, require, unknown_name
from eto_gym.registration import resolve_env_id, short_names
from eto_gym.trainers.settings.fields import build, fields_of, nested
from eto_gym.trainers.settings.loops import ETOSettings
from eto_gym.trajectories.text_files import read_text

S = TypeVar("S")

FOLDER = Path(__file__).parent / "preset_files"

PRESETS = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
"""Names of the presets."""

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 16, "optimizer": "adamw"},
    "qlora": {
        "qlora": True,
        "optimizer": "paged_adamw8bit",
        "precision": "bf16",
        "lora_r": 16,
    },
}
"""Short form of the command line (`--lora`, `--qlora`) -> the settings of a stage that it sets."""

METHODS = (
    *("eto", "rft", "self-play", "step-dpo", "mixture", "hpl", "early-experience"),
    *("ppo", "grpo", "rloo", "sft", "dpo"),
)
"""Methods of the commands that take settings files."""

OTHERWISE = "otherwise"
TRAININGS = "trainings"
_RESEMBLES = {"mixture": "dpo", "world": "sft"}
"""Part of the settings -> the part whose values of a preset it takes too. Of one setting the value
that the preset names last counts, whichever of the two it names it for."""


class Sourced(NamedTuple):
    """A value and its source."""

    value: Any
    source: str


Values = dict[str, Sourced]
"""Dotted name of a setting -> its value."""


def settings_from(
    kind: type,
    *,
    preset: str = "",
    files: Iterable[str | Path] = (),
    env: str = "",
    method: str = "",
    others: Iterable[str] = (),
) -> Values:
    """Return what a preset and settings files say; later files win.

    Args:
        kind: The settings class of the method.
        preset: Name of the preset to begin with; empty: the one that the files name, if any does.
        files: Settings files.
        env: The environment, for values that depend on it; empty: the one that the files name, or
            the method's default.
        method: Name of the method; empty: the one that `kind` is for.
        others: Names that files may hold beside settings.

    Raises:
        UnknownNameError: There is no such preset, method, environment or setting.
        DataError: A file cannot be read.
    """
    method = method or getattr(kind, "method", "")
    own: Values = {}
    for file in files:
        own |= _read(Path(file), kind, method, frozenset(others))
    if not preset and "preset" in own:
        preset = str(own["preset"].value)
    preset = "" if preset == "custom" else preset  # the name of having none
    found: Values = {}
    if preset:
        path = FOLDER / f"{check_choice('preset', preset, PRESETS)}.yaml"
        found = _read(path, kind, method, frozenset())
        own["preset"] = Sourced(preset, f"preset {preset}")
    found |= own
    default = getattr(kind, "env", "")
    chosen = env or (str(found["env"].value) if "env" in found else default)
    env_id = resolve_env_id(chosen) if chosen else ""
    return {
        name: Sourced(_for_env(v.value, env_id, f"{v.source}: {name}"), v.source)
        for name, v in found.items()
    }


def preset_values(
    name: str, env: str = "", kind: type = ETOSettings, *, method: str = ""
) -> dict[str, Any]:
    """Return the settings of a preset, nested as in the settings class.

    Args:
        name: Name of the preset.
        env: The environment, for values that depend on it.
        kind: The settings class of the method.
        method: Name of the method; empty: the one that `kind` is for.

    Raises:
        UnknownNameError: There is no such preset.
    """
    found = settings_from(kind, preset=name, env=env, method=method)
    return nested({setting: item.value for setting, item in found.items()})


def from_preset(kind: type[S], name: str, *, method: str = "", **changes: Any) -> S:
    """Return the settings of a method as a preset has them.

    Example:
        >>> from eto_gym.trainers.settings.loops import ETOSettings
        >>> settings = from_preset(ETOSettings, "quickstart", iterations=2)
        >>> settings.iterations, settings.sft.optimizer
        (2, 'muon')

    Args:
        kind: The dataclass of the method's settings.
        name: Name of the preset.
        method: Name of the method, where `kind` is the class of several.
        changes: Values that replace the preset's, by name; parts as whole dataclasses.

    Raises:
        UnknownNameError: There is no such preset, or the settings have no such field.
    """
    values = preset_values(name, str(changes.get("env", "")), kind, method=method)
    return build(kind, {**values, **changes})


def _read(path: Path, kind: type, method: str, others: frozenset[str]) -> Values:
    """Read a file, after those that it extends."""
    data = copy.deepcopy(_shipped(path)) if path.parent == FOLDER else _load(path)
    found: Values = {}
    if "extends" in data:
        found = _read(_named(str(data.pop("extends")), path.parent), kind, method, others)
    sections = data.pop("sections", [])
    if not isinstance(sections, list) or not all(isinstance(s, dict) for s in sections):
        raise DataError(f"{path}: expected sections to be a list of mappings")
    reader = _Reader(path, kind, method, others)
    found |= reader.section(data, str(path))
    for section in sections:
        source = str(section.pop("source", path))
        methods = section.pop("methods", [method])
        if not isinstance(methods, list):
            raise DataError(f"{path}: expected methods to be a list of names, got {methods!r:.80}")
        for name in methods:
            if name not in (*METHODS, method):
                raise DataError(f"{path}: {unknown_name('method', name, METHODS)}")
        if method in methods or not method:
            found |= reader.section(section, source)
    return found


def trainings_of(kind: type) -> list[str]:
    """Return the dotted names of every training in a settings class, the base stage's not."""
    names = [item.name for item in fields_of(kind)]
    parts = [name.rpartition(".")[0] for name in names if name.rpartition(".")[2] == "lora_r"]
    return [part for part in parts if not part.startswith("base.")]


def _named(name: str, folder: Path) -> Path:
    """Return the preset or the file, relative to the one that extends it, of a name."""
    return FOLDER / f"{name}.yaml" if name in PRESETS else folder / name


class _Reader:
    """Finds the settings of a method in nested mappings."""

    def __init__(self, path: Path, kind: type, method: str, others: frozenset[str]) -> None:
        self._path = path
        self._fields = {item.name for item in fields_of(kind)}
        self._parts = {name.rpartition(".")[0] for name in self._fields}
        self._trainings = trainings_of(kind)
        self._others = others
        # Presets are for all methods: what one has no use for is left out.
        self._shipped = path.parent == FOLDER

    def section(self, data: Mapping[str, Any], source: str, prefix: str = "") -> Values:
        """Return the values of a section by their dotted names."""
        found: Values = {}
        for key, value in data.items():
            name = prefix + str(key).replace("-", "_")
            if name in self._fields or (not prefix and name in self._others):
                found[name] = Sourced(value, source)
                continue
            parts = self._parts_of(name) if isinstance(value, Mapping) else []
            for part in parts:
                found |= self.section(value, source, f"{part}." if part else "")
            if not parts and not self._shipped and name not in _NO_SETTINGS:
                known = [*self._fields, *([] if prefix else [TRAININGS])]
                raise DataError(f"{self._path}: {unknown_name('setting', name, known)}")
        return found

    def _parts_of(self, name: str) -> list[str]:
        """Return the parts that take the values which a file has under a name."""
        if name == TRAININGS:
            return self._trainings
        parts = [name] if self._has(name) else []
        if self._shipped:
            parts += [part for part, like in _RESEMBLES.items() if like == name and self._has(part)]
        return parts

    def _has(self, part: str) -> bool:
        return any(f"{name}.".startswith(f"{part}.") for name in self._parts)


_NO_SETTINGS = {"config", "dry_run", "lora", "qlora", "help_all"}
"""What earlier versions printed among the settings."""


@functools.cache
def _shipped(path: Path) -> dict[str, Any]:
    """Return what a preset holds, which is read once."""
    return _load(path)


def _load(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML or JSON file holds."""
    data = read_yaml(read_text(path), str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected settings by name, got {type(data).__name__}")
    return data


def read_yaml(text: str, origin: str) -> Any:
    """Return what a text in YAML or JSON says; `1e-5` is a number.

    Args:
        text: The text.
        origin: Where it is from, for errors.

    Raises:
        DataError: It is no YAML.
        MissingDependencyError: The extra `train` is not installed.
    """
    yaml = require("yaml", feature="settings files", extra="train")

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        """YAML 1.1 takes `1e-5` for text."""

    number = re.compile(r"\A[-+]?\d+(?:\.\d*)?[eE][-+]?\d+\Z")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        mark = getattr(err, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = getattr(err, "problem", None) or " ".join(str(err).split())[:200]
        raise DataError(f"{origin}{line}: no YAML: {problem}") from err


def _for_env(value: Any, env_id: str, place: str) -> Any:
    """Return the value for an environment.

    Raises:
        DataError: All keys are environments, and nothing is said of the others.
    """
    if not isinstance(value, Mapping):
        return value
    if OTHERWISE not in value:
        if value and set(map(str, value)) <= set(short_names()):
            named = ", ".join(map(str, value))
            raise DataError(f"{place}: expected {OTHERWISE!r} beside {named}, for all others")
        return value
    for name, chosen in value.items():
        if name != OTHERWISE and resolve_env_id(name) == env_id:
            return chosen
    return value[OTHERWISE]
