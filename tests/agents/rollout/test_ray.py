"""Rollouts on a Ray cluster of two cores on this machine."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from eto_gym import EtoGymError
from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.agents.rollout.collect import RolloutSpec, collect, latest
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.agents.rollout.launchers import get_launcher
from eto_gym.trajectories import TrajectoryStore
from tests.toy import CORRIDOR

if find_spec("ray") is None:  # not imported here: the launcher must be the first to do so
    pytest.skip("needs the extra ray", allow_module_level=True)

from eto_gym.agents.rollout import ray_cluster as ray_cluster_module
from eto_gym.agents.rollout.ray_cluster import _PATIENCE, Head, check_listens, ray_cluster
from eto_gym.agents.rollout.ray_launcher import RayLauncher, largest_share

pytestmark = pytest.mark.timeout(600)
EPISODES = plan_episodes([f"door-{i % 4}/{i}" for i in range(24)], seed=4)


class Coin:
    """Goes or opens by the episode's seed and turn; kills its process once, where it is told to."""

    name = "coin"

    def __init__(self, *, die_in: str = "", note: str = "") -> None:
        self._die_in, self._note = die_in, Path(note)
        self._seen: dict[str, int] = {}

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        return [self._act(conversation) for conversation in conversations]

    def release(self, key: str) -> None:
        del self._seen[key]

    def _act(self, conversation: Conversation) -> PolicyReply:
        turn = sum(m.train for m in conversation.messages)
        if self._seen.setdefault(conversation.key, 0) != turn:
            raise RuntimeError("turns of another attempt are remembered")
        self._seen[conversation.key] += 1
        task = conversation.info["task_id"]
        if turn == 1 and task == self._die_in and not self._note.exists():
            self._note.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        word = "open" if (conversation.seed >> turn) & 1 else "go"
        return PolicyReply(f"Action: {word}", usage={"decoded_tokens": 2})


def dying(note: Path) -> functools.partial[Coin]:
    lasting = next(e.task_id for e in EPISODES[5:] if not e.seed & 1)  # its first word is "go"
    return functools.partial(Coin, die_in=lasting, note=str(note))


def spec(make_policy: object = Coin, **kwargs: object) -> RolloutSpec:
    return RolloutSpec(CORRIDOR, make_policy, prompt_style="none", **kwargs)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    root = str(Path(__file__).parents[3])
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
    with ray_cluster(num_cpus=2, object_store_memory=80 * 2**20, log_to_driver=False):
        import ray

        own_ip = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        assert own_ip == "127.0.0.1", "others can reach the cluster"
        yield
    assert not ray.is_initialized()
    patch.undo()


@pytest.fixture(scope="module")
def expected() -> list[object]:
    return list(collect(spec(), EPISODES))


def test_equal_to_the_local_launcher(cluster: None, expected: list[object]) -> None:
    assert collect(spec(slots=6), EPISODES, launcher=get_launcher("ray")) == expected
    import ray

    assert ray.is_initialized(), "a cluster that was there before was stopped"


def test_a_lost_worker_costs_its_episodes_a_retry(
    cluster: None, expected: list[object], tmp_path: Path
) -> None:
    store = TrajectoryStore(tmp_path / "t.jsonl")
    results = collect(
        spec(dying(tmp_path / "died"), workers=2, slots=6),
        EPISODES,
        launcher=RayLauncher(),
        store=store,
    )
    assert (tmp_path / "died").exists()
    assert results == expected
    assert len(store.load()) == len(EPISODES), "an episode was recorded twice"


@pytest.mark.slow
def test_a_lost_policy_actor_costs_its_episodes_a_retry(
    cluster: None, expected: list[object], tmp_path: Path
) -> None:
    results = collect(
        spec(dying(tmp_path / "died"), workers=2, slots=6),
        EPISODES,
        launcher=get_launcher("ray:1"),
    )
    assert (tmp_path / "died").exists()
    assert results == expected


def test_a_policy_that_cannot_be_built_ends_the_run(cluster: None) -> None:
    broken = functools.partial(Coin, no_such_option=1)  # type: ignore[call-arg]
    with pytest.raises(EtoGymError, match="no_such_option"):
        collect(spec(broken), EPISODES, launcher=RayLauncher(policies=1))
    with pytest.raises(EtoGymError, match="policies >= 0"):
        RayLauncher(policies=-1)


DRIVER = """
import sys
from eto_gym.agents.rollout.ray_launcher import RayLauncher
from eto_gym.agents.rollout.collect import collect
from eto_gym.errors import EtoGymError
from eto_gym.trajectories import TrajectoryStore
from tests.agents.rollout.test_ray import EPISODES, Slow, spec

if __name__ == "__main__":
    store = TrajectoryStore(sys.argv[1])
    try:
        collect(
            spec(Slow, workers=2, slots=6),
            EPISODES,
            launcher=RayLauncher(policies=int(sys.argv[2])),
            store=store,
        )
    except EtoGymError as err:
        sys.exit(str(err))
"""


class Slow(Coin):
    """A coin that notes its process and node, and waits there until it is told to go on."""

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        import ray

        notes = Path(os.environ["ETO_TEST_NOTES"])
        place = notes / str(os.getpid())
        if not place.exists():
            place.write_text(ray.get_runtime_context().get_node_id())
        while not (notes / "go").exists():
            time.sleep(0.02)
        return super().act(conversations)


def _places(notes: Path) -> dict[int, str]:
    """Return the process and the node of each worker that has noted them."""
    return {int(note.name): node for note in notes.iterdir() if (node := note.read_text())}


def join(address: str, out: Path, policies: int, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(out), str(policies)],
        env={**os.environ, "RAY_ADDRESS": address, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass
class TwoNodes:
    """A cluster in a process of its own, which lets in only who shows its token."""

    address: str
    second: str
    keys: dict[str, str]
    process: subprocess.Popen[str]

    def kill(self, what: str) -> None:
        """End the head, or the second node."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"

    def both_play(self, driver: subprocess.Popen[str], notes: Path) -> dict[int, str]:
        """Wait until each node has a worker of the driver; return their processes and nodes."""
        while len(places := _places(notes)) < 2:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.05)
        return places


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    root = str(Path(__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # 127.0.0.1
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("ETO_TEST_NOTES", str(tmp_path / "notes"))
    (tmp_path / "notes").mkdir()
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    token = tmp_path / "token"
    token.write_text("a" * 64)
    keys = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    nodes = subprocess.Popen(
        [sys.executable, "-m", "tests.agents.rollout.ray_nodes"],
        env={**os.environ, **keys},
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    try:
        address = nodes.stdout.readline().strip()
        second = nodes.stdout.readline().strip()
        assert address.startswith("127.0.0.1:"), "others can reach the cluster"
        yield TwoNodes(address, second, keys, nodes)
    finally:
        nodes.stdin.close()
        nodes.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("policies", [0, 2])
def test_joins_a_cluster_of_two_nodes_and_outlives_one(
    expected: list[object], tmp_path: Path, two_nodes: TwoNodes, policies: int
) -> None:
    lost = join(two_nodes.address, tmp_path / "no.jsonl", policies, RAY_AUTH_MODE="token")
    assert "there is none on this machine" in lost.communicate()[1]
    assert lost.returncode == 1
    driver = join(two_nodes.address, tmp_path / "t.jsonl", policies, **two_nodes.keys)
    places = two_nodes.both_play(driver, tmp_path / "notes")
    (there,) = (pid for pid, node in places.items() if node == two_nodes.second)
    two_nodes.kill("node")
    with contextlib.suppress(ProcessLookupError):
        os.kill(there, signal.SIGKILL)  # a process outlives its node for a while
    (tmp_path / "notes" / "go").touch()  # not before: a worker may be done by then
    _, told = driver.communicate()
    assert driver.returncode == 0, told
    assert "a rollout process died" in told
    stored = TrajectoryStore(tmp_path / "t.jsonl").load(strict=True)
    assert len(stored) == len(EPISODES), "an episode was recorded twice"
    assert latest(stored) == {t.key: t for t in expected}  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lost_head_ends_the_run_in_one_line(tmp_path: Path, two_nodes: TwoNodes) -> None:
    patience = {_PATIENCE: "30"}  # Ray would end the driver after these seconds
    driver = join(two_nodes.address, tmp_path / "t.jsonl", 0, **two_nodes.keys, **patience)
    two_nodes.both_play(driver, tmp_path / "notes")
    two_nodes.kill("head")
    _, told = driver.communicate()
    assert driver.returncode == 1
    assert told.splitlines()[-1] == (
        f"the head of the Ray cluster at {two_nodes.address} is lost. What was written stays; the "
        "same command on a new cluster goes on from there"
    )


@pytest.mark.parametrize(
    ("rooms", "parts", "share"),
    [
        ([2.0], 2, 1.0),
        ([2.0], 1, 1.0),  # one actor takes no more than one
        ([2.0], 4, 0.5),
        ([1.0, 1.0, 1.0], 4, 0.5),  # 0.75 of each would leave the fourth without a place
        ([4.0, 1.0], 5, 1.0),
        ([3.0, 1.0], 5, 0.75),
        ([0.998, 0.998], 2, 0.998),  # beside two policy actors
        ([1.0], 3, 0.3333),
        ([1.0, 0.0, -0.1], 1, 1.0),
        ([], 3, 0.0),
        ([0.0], 3, 0.0),
    ],
)
def test_every_actor_has_its_share_in_one_place(
    rooms: list[float], parts: int, share: float
) -> None:
    assert largest_share(rooms, parts) == share


def test_says_at_once_that_there_is_no_cluster() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nothing listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EtoGymError, match="no Ray cluster"):
            check_listens(address)
    check_listens("auto")


def test_a_head_that_comes_back_in_time_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, back = 0.0, 0.0  # the time, and when it listens again

    def listens(address: str, *, timeout: float) -> None:
        assert timeout < 60 / 3, "Ray would end this process during the look"
        if now < back:
            raise EtoGymError("refused")

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(ray_cluster_module, "check_listens", listens)
    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(ray_cluster_module, "time", clock)
    head = Head("host:1")
    assert head.look()
    back = 200.0
    assert head.look(), "it looks every few seconds alone"
    now = 180.0  # busy elsewhere: what was not looked at is not held against the head
    assert not head.look()
    head.wait()
    assert now >= back
    assert caplog.text.count("does not answer") == 1
    now, back = 300.0, 400.0
    with pytest.raises(EtoGymError, match="head of the Ray cluster at host:1 is lost"):
        head.wait()
    assert 320 < now < 350
