"""Every step of the official engine's transcripts: observation, admissible actions, won."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eto_gym.envs.alfworld.engine.engine import Game, Playthrough, parse_game

SHARED = Path(__file__).resolve().parents[4] / "shared"
ARCHIVES = {"valid_seen": "games_seen", "train100": "games_train100"}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not (SHARED / "golden/alfworld").is_dir(), reason=f"{SHARED} is absent"),
]


def _transcripts(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(SHARED / f"golden/alfworld/{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _games(name: str) -> dict[str, Game]:
    """Parse all games of an archive, by their path below `json_2.1.1`."""
    games = {}
    with tarfile.open(SHARED / f"data/alfworld/{ARCHIVES[name]}.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("/game.tw-pddl"):
                file = archive.extractfile(member)
                assert file is not None
                path = member.name.split("json_2.1.1/", 1)[1]
                games[path] = parse_game(file.read().decode())
    return games


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_step_equals_the_official_engines(name: str) -> None:
    games = _games(name)
    steps = 0
    for transcript in _transcripts(name):
        game = games[transcript["game"]]
        episode = Playthrough(game)
        start = (transcript["obs0"], transcript["adm0"], transcript["won0"])
        assert (game.intro, episode.admissible(), episode.won) == start
        for step in transcript["steps"]:
            answer = episode.step(step["a"])
            expected = (step["obs"], step["adm"], step["won"])
            where = (transcript["game"], transcript["kind"], step["a"])
            assert (answer, episode.admissible(), episode.won) == expected, where
            steps += 1
    assert steps > 5000
