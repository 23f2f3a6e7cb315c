"""Houses: which receptacles a scene has, where they stand, and to which split it belongs."""

from __future__ import annotations

import random
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, TypeVar

from eto_gym.envs.alfworld.builtin.world import (
    OPENABLE,
    RECEPTACLE_COUNTS,
    ROOM_SHARES,
    ROOMS,
)
from eto_gym.errors import UnknownNameError

T = TypeVar("T")

SIZES: Final = tuple(ROOMS)
SPLITS: Final = {"train": (1, 400), "dev": (5001, 5050), "test": (7001, 7250)}
"""Split -> number of its first and last scene."""

# A layout belongs to the split that its checksum (modulo 10) falls to, so that no layout, under
# whatever scene number, is shared by two splits.
_LAYOUT_SHARES = {"train": range(0, 6), "dev": range(6, 8), "test": range(8, 10)}
_SHARED_SPOT = {"small": 0.0, "medium": 0.0, "large": 0.3}
_STUCK = {"small": 0.0, "medium": 0.0, "large": 0.08}
_SCENE = re.compile(r"([sml])(\d{4})")


class Dice(random.Random):
    """A seeded generator whose draws use only `random()`.

    That method, seeded by a string, is the one sequence that Python promises to keep the same in
    every version.
    """

    def between(self, low: int, high: int) -> int:
        """Draw an integer from low..high, both included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """Draw one of the items evenly."""
        return items[int(self.random() * len(items))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """Draw a key with a chance in proportion to its value.

        Raises:
            ValueError: No value is positive.
        """
        left = self.random() * sum(weights.values())
        last: T | None = None
        for key, weight in weights.items():
            if weight <= 0:
                continue
            last = key
            left -= weight
            if left < 0:
                break
        if last is None:
            raise ValueError(f"expected a positive weight, got {dict(weights)!r}")
        return last

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order."""
        return sorted(items, key=lambda _: self.random())


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place that holds objects; `id` and `location` are names as in the game files."""

    id: str
    type: str
    location: str
    openable: bool


@dataclass(frozen=True)
class House:
    """One room with its receptacles; `scene` is its name ("m0412": medium, number 412)."""

    scene: str
    size: str
    room: str
    receptacles: tuple[Receptacle, ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """Count the receptacles of each type."""
        return Counter(receptacle.type for receptacle in self.receptacles)

    @property
    def layout(self) -> str:
        """Describe the room and its receptacles, whatever the scene is called."""
        kinds = " ".join(f"{kind}:{count}" for kind, count in sorted(self.counts.items()))
        return f"{self.size} {self.room} {kinds}"


def scenes(split: str, size: str) -> list[str]:
    """Name the scenes of a split, in order."""
    first, last = SPLITS[split]
    return [f"{size[0]}{number:04d}" for number in range(first, last + 1)]


def split_of(scene: str) -> str:
    """Tell to which split a scene belongs.

    Raises:
        UnknownNameError: There is no such scene.
    """
    match = _SCENE.fullmatch(scene)
    if match:
        for split, (first, last) in SPLITS.items():
            if first <= int(match[2]) <= last:
                return split
    raise UnknownNameError(f"expected a built-in scene such as 'm0001', got {scene!r}")


@lru_cache(maxsize=2048)
def house(scene: str) -> House:
    """Build a scene; the same name gives the same house on every machine."""
    split = split_of(scene)
    size = next(size for size in SIZES if size[0] == scene[0])
    dice = Dice(f"eto-gym house {scene}")
    room = dice.weighted(ROOM_SHARES)
    low, high = RECEPTACLE_COUNTS[size]
    while True:
        counts = {kind: dice.between(*span) for kind, span in ROOMS[size][room].items()}
        if not low <= sum(counts.values()) <= high:
            continue
        built = House(scene, size, room, _place(dice, size, counts))
        if zlib.crc32(built.layout.encode()) % 10 in _LAYOUT_SHARES[split]:
            return built


def _place(dice: Dice, size: str, counts: Mapping[str, int]) -> tuple[Receptacle, ...]:
    """Give each receptacle an id and a spot; neighbours of one type may share a spot."""
    kinds = [kind for kind in sorted(counts) for _ in range(counts[kind])]
    spots: list[int] = []
    for before, kind in zip([None, *kinds], kinds, strict=False):
        shares = kind in OPENABLE and kind == before and dice.random() < _SHARED_SPOT[size]
        spots.append(spots[-1] if shares else len(spots))
    order = dice.shuffled(sorted(set(spots)))
    number = {spot: place for place, spot in enumerate(order, start=1)}
    placed = []
    for index, (kind, spot) in enumerate(zip(kinds, spots, strict=True), start=1):
        stuck = kind in ("Cabinet", "Drawer") and dice.random() < _STUCK[size]
        placed.append(
            Receptacle(
                id=_receptacle_id(kind, index),
                type=kind,
                location=f"loc_bar_{number[spot]:02d}",
                openable=kind in OPENABLE and not stuck,
            )
        )
    return tuple(placed)


def _receptacle_id(kind: str, index: int) -> str:
    # The engines take a name from the text before "_bar_", and add "basin" where the id has it.
    if kind.endswith("Basin"):
        return f"{kind.removesuffix('Basin')}_bar_{index:02d}_bar_{kind}"
    return f"{kind}_bar_{index:02d}"
