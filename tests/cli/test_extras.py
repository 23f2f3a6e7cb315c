"""What a command needs is in the extra that is named for it: everything else is blocked here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from eto_gym.cli.doctor import requirements
from eto_gym.testing.fake_endpoint import FakeEndpoint
from tests.toy import CORRIDOR

_BLOCKED = """
import sys
from importlib.metadata import packages_distributions
allowed = set(sys.argv[1].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        homes = {re.sub("[-_.]+", "-", h).lower() for h in OWNERS.get(top, ())}
        if homes and not homes & allowed:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

import re
OWNERS = packages_distributions()
sys.meta_path.insert(0, Blocker())
from eto_gym.cli.main import main
for line in sys.argv[2:]:
    status = main(line.split())
    if status:
        sys.exit(f"{line}: {status}")
"""


def plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def with_all_they_need(names: list[str]) -> set[str]:
    """Return the distributions and those that they require, as far as they are installed."""
    found: set[str] = set()
    wanted = [plain(name) for name in names]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        plainly = [line for line in lines if "extra ==" not in line]
        wanted += [plain(match[0]) for line in plainly if (match := re.match(r"[\w.-]+", line))]
    return found


def run(extra: str | None, *lines: str) -> None:
    names = requirements()
    allowed = with_all_they_need(names[""] + (names[extra] if extra else []))
    assert "torch" not in allowed
    assert "scipy" not in allowed
    command = [sys.executable, "-c", _BLOCKED, ",".join([*sorted(allowed), "eto-gym"]), *lines]
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_scores_need_no_extra(tmp_path: Path) -> None:
    out = tmp_path / "played.jsonl"
    run(
        None,
        f"rollout {CORRIDOR} --policy random --limit 3 --out {out}",
        f"eval --from {out} --compare {out}",
        f"compare {out} {out}",
        f"eval {CORRIDOR} --policy expert --limit 2 --best-of 1 --out {tmp_path}/e.jsonl",
        f"show {out}",
        f"view {out} --out {tmp_path}/view.html",
        "doctor",
    )
    assert out.with_name("played.report.json").exists()


def test_an_endpoint_needs_its_extra_alone(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    with FakeEndpoint() as fake:
        out = tmp_path / "played.jsonl"
        ask = f"--policy endpoint:{fake.url} --policy-arg model=m"
        run("openai", f"eval {CORRIDOR} {ask} --limit 2 --out {out}")
        assert fake.requests
