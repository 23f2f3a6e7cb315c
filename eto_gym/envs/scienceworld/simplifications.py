"""What the engine can make easier, and the presets of it."""

from __future__ import annotations

from eto_gym.errors import UnknownNameError, unknown_name

ENGINE_NAMES = (
    "teleportAction",
    "openDoors",
    "openContainers",
    "selfWateringFlowerPots",
    "noElectricalAction",
)
"""The engine's own names. `noElectricalAction` takes the wiring commands away."""

PRESETS = {
    "none": frozenset[str](),
    # The engine's "easy" leaves containers closed, whatever its documentation says.
    "easy": frozenset(ENGINE_NAMES) - {"openContainers"},
    "easy-open": frozenset(ENGINE_NAMES),
}


def parse(simplification: str) -> frozenset[str]:
    """Return the engine's names that a preset, or a list separated by commas, stands for.

    Raises:
        UnknownNameError: It is neither.
    """
    if simplification in PRESETS:
        return PRESETS[simplification]
    names = [name.strip() for name in simplification.split(",")]
    for name in names:
        if name not in ENGINE_NAMES:
            raise unknown_name("simplification", name, (*PRESETS, *ENGINE_NAMES))
    if len(set(names)) != len(names):
        raise UnknownNameError(f"expected each simplification once, got {simplification!r}")
    return frozenset(names)


def expand(simplification: str, task: str) -> str:
    """Return the string to load a task with.

    Electrical tasks need the wiring commands, so that `noElectricalAction` is left out for them, as
    the engine itself does for "easy".
    """
    if simplification == "easy":
        return "easy"
    names = parse(simplification)
    if is_electrical(task):
        names -= {"noElectricalAction"}
    return ",".join(name for name in ENGINE_NAMES if name in names)


def is_electrical(task: str) -> bool:
    """Whether the task cannot be solved without wiring."""
    return "power-component" in task or "conductivity" in task
