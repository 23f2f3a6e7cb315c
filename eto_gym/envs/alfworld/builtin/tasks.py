"""Tasks in the houses: what is asked for, and where every object lies at the start."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from eto_gym.envs.alfworld.builtin.houses import SIZES, SPLITS, Dice, House, house, scenes
from eto_gym.envs.alfworld.builtin.world import (
    CAN_CONTAIN,
    CLEANABLE,
    COOLABLE,
    FIXED_PLACES,
    HEATABLE,
    LAMP_PLACES,
    OBJECT_COUNTS,
    PLACES,
    TASK_SHARES,
    TASK_TEXTS,
    TASK_TYPES,
)
from eto_gym.errors import UnknownNameError, unknown_name
from eto_gym.tasks import Task, TaskSet

TRIALS: Final = 10
"""Tasks per scene."""
_COPIES = {"small": 2, "medium": 2, "large": 3}
"""Most objects of one type."""
_SPARE = {"small": 0.3, "medium": 0.2, "large": 0.6}
"""How often one more object of the wanted type lies about than the task needs."""
_ODD_SHARE = 2.0
"""Weight, beside the square roots of the counted shares, of every other place that can hold a
thing: houses are a little untidy, so that looking in the likeliest place does not always do."""
_TREATMENTS = {
    "pick_clean_then_place_in_recep": (CLEANABLE, "SinkBasin"),
    "pick_heat_then_place_in_recep": (HEATABLE, "Microwave"),
    "pick_cool_then_place_in_recep": (COOLABLE, "Fridge"),
}
_ID = re.compile(r"[^/]+/trial_([sml]\d{4})_(\d{2})")


@dataclass(frozen=True, slots=True)
class Spec:
    """What a task asks for.

    Attributes:
        house: The scene.
        trial: Number of the task in its scene.
        type: One of the six task types.
        obj: Object type to be brought or looked at.
        target: Receptacle type to bring it to, or the lamp's type.
        text: The sentence that states the task.
    """

    house: House
    trial: int
    type: str
    obj: str
    target: str
    text: str

    @property
    def id(self) -> str:
        """Name the task as the official games are: `<task folder>/<trial folder>`."""
        scene = self.house.scene
        return f"{self.type}-{self.obj}-None-{self.target}-{scene}/trial_{scene}_{self.trial:02d}"


@lru_cache(maxsize=16)
def task_set(split: str, *, size: str = "medium") -> TaskSet:
    """List the built-in tasks of a split: 4,000 (train), 500 (dev) or 2,500 (test).

    Args:
        split: "train", "dev" or "test"; no house layout occurs in two of them.
        size: "small" (5-7 receptacles), "medium" (6-14) or "large" (10-34, as in the official
            games). Medium by default: searching is needed, and texts stay short enough for a model
            that learns on a CPU.

    Raises:
        UnknownNameError: There is no such split or house size.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if size not in SIZES:
        raise unknown_name("house size", size, SIZES)
    specs = (spec(scene, trial) for trial in range(TRIALS) for scene in scenes(split, size))
    return TaskSet([Task(id=s.id, type=s.type, split=split) for s in specs], split=split)


def find_spec(task_id: str) -> Spec:
    """Return the task of this id.

    Raises:
        UnknownNameError: It is not the id of a built-in task.
    """
    match = _ID.fullmatch(task_id)
    if match and int(match[2]) < TRIALS:
        found = spec(match[1], int(match[2]))
        if found.id == task_id:
            return found
    raise UnknownNameError(f"expected the id of a built-in task, got {task_id!r}")


def spec(scene: str, trial: int) -> Spec:
    """Draw the task of a scene's trial; the same arguments give the same task."""
    built = house(scene)
    dice = Dice(f"eto-gym task {scene} {trial}")
    choices = _choices(scene)
    shares = dict(zip(TASK_TYPES, TASK_SHARES[built.room], strict=True))
    kind = dice.weighted({kind: shares[kind] for kind in choices})
    obj = dice.pick(tuple(choices[kind]))
    target = dice.pick(choices[kind][obj])
    text = dice.pick(TASK_TEXTS[kind]).format(obj=obj.lower(), to=target.lower())
    return Spec(built, trial, kind, obj, target, text)


def start(task: Spec) -> list[tuple[str, str]]:
    """Place the objects: pairs of object type and receptacle id.

    As many objects as the task needs lie outside its target, so that it is never solved at the
    start and can always be solved.
    """
    built = task.house
    dice = Dice(f"eto-gym start {built.scene} {task.trial}")
    copies = _COPIES[built.size]
    two = task.type == "pick_two_obj_and_place"
    wanted = (2 if two else 1) + (copies > 1 and dice.random() < _SPARE[built.size])
    placed = [(task.obj, _spot(dice, task, task.obj)) for _ in range(wanted)]
    total = dice.between(*OBJECT_COUNTS[built.size])
    kinds = _hosts(built.scene)
    counts = Counter({task.obj: copies})
    while len(placed) < total:
        open_kinds = [kind for kind in kinds if counts[kind] < copies]
        if not open_kinds:
            break
        kind = dice.pick(open_kinds)
        counts[kind] += 1
        placed.append((kind, _spot(dice, task, kind)))
    placed += _scenery(dice, task)
    return dice.shuffled(placed)


def _spot(dice: Dice, task: Spec, kind: str) -> str:
    """Draw a receptacle for an object; a wanted one that only has to be moved starts elsewhere."""
    weights = _hosts(task.house.scene)[kind]
    if kind == task.obj and task.type in ("pick_and_place_simple", "pick_two_obj_and_place"):
        weights = {host: weight for host, weight in weights.items() if host != task.target}
    return _receptacle(dice, task.house, weights)


def _receptacle(dice: Dice, built: House, weights: Mapping[str, float]) -> str:
    host = dice.weighted(weights)
    return dice.pick([place.id for place in built.receptacles if place.type == host])


def _scenery(dice: Dice, task: Spec) -> list[tuple[str, str]]:
    """Place what cannot be taken: lamps, plants, a television."""
    built = task.house
    placed = []
    lamps = _here(built, LAMP_PLACES) if built.room in ("bedroom", "living") else {}
    count = 0
    if task.type == "look_at_obj_in_light":
        count = 2 if dice.random() < 0.1 else 1
    elif lamps and dice.random() < 0.5:
        count = 1
    placed += [("DeskLamp", _receptacle(dice, built, lamps)) for _ in range(count)]
    for kind, (rooms, hosts) in FIXED_PLACES.items():
        weights = _here(built, dict.fromkeys(hosts.split(), 1))
        if built.room in rooms.split() and weights and dice.random() < 0.3:
            placed.append((kind, _receptacle(dice, built, weights)))
    return placed


def _here(built: House, weights: dict[str, int]) -> dict[str, int]:
    return {kind: weight for kind, weight in weights.items() if built.counts[kind]}


@lru_cache(maxsize=2048)
def _hosts(scene: str) -> dict[str, dict[str, float]]:
    """Object type -> the receptacle types of this house that may hold it, with their weights."""
    built = house(scene)
    hosts = {}
    for kind, shares in PLACES[built.room].items():
        weights = {
            place: math.sqrt(shares[place]) if place in shares else _ODD_SHARE
            for place in sorted(built.counts)
            if kind in CAN_CONTAIN.get(place, ())
        }
        if weights:
            hosts[kind] = weights
    return hosts


@lru_cache(maxsize=2048)
def _choices(scene: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Task type -> object type -> the targets that it can be asked for with in this house."""
    built = house(scene)
    hosts = _hosts(scene)
    targets = {
        obj: tuple(kind for kind in sorted(built.counts) if obj in CAN_CONTAIN.get(kind, ()))
        for obj in hosts
    }
    moves = {
        obj: tuple(kind for kind in kinds if set(hosts[obj]) - {kind})
        for obj, kinds in targets.items()
    }
    choices = {"pick_and_place_simple": moves, "pick_two_obj_and_place": moves}
    for kind, (able, tool) in _TREATMENTS.items():
        if built.counts[tool]:
            choices[kind] = {
                obj: tuple(place for place in targets[obj] if place != tool)
                for obj in sorted(able & hosts.keys())
            }
    if built.room in ("bedroom", "living") and _here(built, LAMP_PLACES):
        choices["look_at_obj_in_light"] = dict.fromkeys(hosts, ("DeskLamp",))
    shares = dict(zip(TASK_TYPES, TASK_SHARES[built.room], strict=True))
    found = {
        kind: {obj: kinds for obj, kinds in choices.get(kind, {}).items() if kinds}
        for kind in TASK_TYPES
        if shares[kind]
    }
    return {kind: row for kind, row in found.items() if row}
