"""The paper's expert files: their download, and their records as episodes of our tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import eto_gym  # noqa: F401
from eto_gym.cli.main import main
from eto_gym.conversation import ConversationEnv
from eto_gym.env import TextEnv
from eto_gym.errors import DataError, UnknownNameError
from eto_gym.trajectories import eto_experts, eto_files
from eto_gym.trajectories.eto_experts import SCIENCEWORLD_TASKS, read_experts
from eto_gym.trajectories.eto_files import ExpertFile, download, find_file
from tests.server import serve

INSTRUCTION = [{"from": "human", "value": "Do as told."}, {"from": "gpt", "value": "OK"}]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("ETO_GYM_DATA", str(folder))
    return folder


def _file(tmp_path: Path, records: list[Any]) -> Path:
    path = tmp_path / "experts.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


@pytest.fixture
def alfworld() -> Iterator[gym.Env[str, str]]:
    env = gym.make("ETO/ALFWorld-v0", data="builtin:small", split="train", admissible_actions=True)
    inner = env.unwrapped
    assert isinstance(inner, TextEnv)
    inner.task_set = inner.task_set[:40]
    yield env
    env.close()


@pytest.fixture
def webshop() -> Iterator[gym.Env[str, str]]:
    env = gym.make("ETO/WebShop-v0", split="train")
    yield env
    env.close()


def _ids(env: gym.Env[str, str]) -> tuple[str, ...]:
    inner = env.unwrapped
    assert isinstance(inner, TextEnv)
    return inner.task_set.ids


def _without_banner(text: str) -> str:
    return text.partition("\n\n")[2]


def _record(
    env: gym.Env[str, str],
    task_id: str,
    rewrite: Callable[[str], str] = lambda text: text,
    **more: Any,
) -> dict[str, Any]:
    """Play a task with its expert, and write that in the paper's form."""
    talk = ConversationEnv(env, prompt_style="none")
    observation, info = talk.reset(options={"task": task_id})
    inner = env.unwrapped
    assert isinstance(inner, TextEnv)
    expert = inner.make_expert()
    turns = [*INSTRUCTION, {"from": "human", "value": rewrite(observation)}]
    bare = observation
    over = False
    while not over:
        reply = expert.act(bare, info)
        assert reply is not None
        turns.append({"from": "gpt", "value": f"Thought: {reply.thought}\nAction: {reply.action}"})
        seen, _, terminated, truncated, info = talk.step(turns[-1]["value"])
        over = terminated or truncated
        bare = talk.steps[-1].observation
        if not over:
            turns.append({"from": "human", "value": seen})
    return {"id": task_id, "conversations": turns, **more}


# --- the download --------------------------------------------------------------------------------


def _files(bodies: dict[str, bytes]) -> dict[str, ExpertFile]:
    return {
        name: ExpertFile(f"{name}_sft.json", hashlib.sha256(body).hexdigest(), 1, len(body))
        for name, body in bodies.items()
    }


def test_the_files_are_fetched_checked_and_found_by_name(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = {name: f'[{{"id": "{name}"}}]'.encode() for name in eto_files.FILES}
    monkeypatch.setattr(eto_files, "FILES", _files(bodies))
    with pytest.raises(DataError, match="run `eto-gym data download eto-trajectories`"):
        find_file("eto:webshop")
    with serve({f"data/{name}_sft.json": body for name, body in bodies.items()}) as site:
        command = ["data", "download", "eto-trajectories", "--mirror", f"{site.url}/data/{{name}}"]
        assert main(command) == 0
        assert "eto:webshop, eto:sciworld, eto:alfworld" in capsys.readouterr().out
        assert main(command) == 0
        assert len(site.requests) == 3  # the second time they were there
    assert find_file("eto:sciworld").read_bytes() == bodies["sciworld"]


def test_a_wrong_sum_leaves_nothing(data: Path) -> None:
    files = _files({"webshop": b"[]"})
    with (
        serve({"webshop_sft.json": b"[1]"}) as site,
        pytest.raises(DataError, match=r"checksum .*nothing was kept"),
    ):
        download(address=site.url + "/{name}", files=files, progress=False)
    assert not list(data.rglob("*.json"))


def test_the_published_files_are_those_of_one_revision() -> None:
    assert eto_files.ADDRESS.count(eto_files.REVISION) == 1
    assert [file.records for file in eto_files.FILES.values()] == [1823, 1482, 3118]
    assert all(len(file.sha256) == 64 for file in eto_files.FILES.values())
    with pytest.raises(UnknownNameError, match="Did you mean 'eto:webshop'"):
        find_file("eto:webshp")


# --- records as episodes -------------------------------------------------------------------------


def test_webshop_s_records_keep_their_rewards(tmp_path: Path, webshop: gym.Env[str, str]) -> None:
    ids = _ids(webshop)[:3]
    numbers = [int(each.removeprefix("human-")) for each in ids]
    records = [
        {**_record(webshop, task), "id": number, "reward": reward, "source": "x"}
        for task, number, reward in zip(ids, numbers, (1.0, 0.6, 0.25), strict=True)
    ]
    records.append({**records[0], "reward": 0.5})  # a task that was demonstrated twice
    taken, report = read_experts(_file(tmp_path, records), "eto:webshop", webshop)
    assert (report.records, report.taken, dict(report.left_out)) == (4, 4, {})
    assert [t.key for t in taken] == [(ids[0], 0), (ids[1], 0), (ids[2], 0), (ids[0], 1)]
    assert [t.reward for t in taken] == [1.0, 0.6, 0.25, 0.5]
    assert [t.success for t in taken] == [True, False, False, False]
    for trajectory in taken:
        assert sum(step.reward for step in trajectory.steps) == trajectory.reward
        webshop.reset(options={"task": trajectory.task_id})
        assert trajectory.task_type == webshop.unwrapped.task.type  # type: ignore[attr-defined]


def test_the_opening_is_that_of_an_agent_s_episode(
    tmp_path: Path, alfworld: gym.Env[str, str]
) -> None:
    task = _ids(alfworld)[0]
    record = _record(alfworld, task, _without_banner)
    (taken,), _ = read_experts(
        _file(tmp_path, [record]), "eto:alfworld", alfworld, prompt_style="one-shot"
    )
    talk = ConversationEnv(alfworld, prompt_style="one-shot")
    talk.reset(options={"task": task})
    for step in taken.steps:
        talk.step(f"Action: {step.action}")
    mine = [m for m in talk.conversation if m.role != "assistant"]
    assert [m for m in taken.messages if m.role != "assistant"] == mine
    assert [m.train for m in taken.messages] == [m.train for m in talk.conversation]
    assert talk.result().success
    assert [s.observation for s in taken.steps[:-1]] == [s.observation for s in talk.steps[:-1]]


def test_mismatches_are_counted_by_kind_and_named(
    tmp_path: Path, webshop: gym.Env[str, str]
) -> None:
    ids = _ids(webshop)[:2]
    number = int(ids[0].removeprefix("human-"))
    good = {**_record(webshop, ids[0]), "id": number, "reward": 1.0}
    records = [
        good,
        {**good, "id": int(ids[1].removeprefix("human-"))},  # another task's text
        {**good, "id": 999_999},
        {**good, "reward": None},
        {**good, "reward": "much"},
        {**good, "conversations": good["conversations"][:3]},
        {**good, "conversations": [*good["conversations"][:4], *good["conversations"][3:]]},
        {**good, "conversations": None},
        "no record",
    ]
    taken, report = read_experts(_file(tmp_path, records), "eto:webshop", webshop)
    assert len(taken) == report.taken == 1
    assert report.left_out == {"other_observation": 1, "not_in_split": 1, "malformed": 6}
    assert report.taken + sum(report.left_out.values()) == report.records == len(records)
    assert "1 not in split (such as 999999)" in str(report)


def test_no_match_at_all_says_what_these_experts_need(
    tmp_path: Path, webshop: gym.Env[str, str], alfworld: gym.Env[str, str]
) -> None:
    record = {
        "id": 3,
        "reward": 1.0,
        "conversations": [
            *INSTRUCTION,
            {
                "from": "human",
                "value": "WebShop [SEP] Instruction: [SEP] a real thing [SEP] Search",
            },
            {"from": "gpt", "value": "Thought: t\nAction: search[thing]"},
        ],
    }
    path = _file(tmp_path, [record])
    with pytest.raises(DataError, match=r"0 of 1 .*full official catalog"):
        read_experts(path, "eto:webshop", webshop)
    with pytest.raises(DataError, match=r"holds experts of webshop, and the environment is alfw"):
        read_experts(path, "eto:webshop", alfworld)


@pytest.mark.parametrize("form", ["game_file", "id", "text"])
def test_alfworld_s_records_are_found_by_game_or_by_how_they_go(
    tmp_path: Path, alfworld: gym.Env[str, str], form: str
) -> None:
    ids = _ids(alfworld)[:12]
    records = []
    for number, task in enumerate(ids):
        record = _record(alfworld, task, _without_banner)
        if form == "game_file":
            record |= {"id": f"alfworld_{number}", "game_file": f"data/json_2.1.1/train/{task}"}
        elif form == "text":
            record["id"] = f"alfworld_{number}"
            turns = json.dumps(record["conversations"])  # as some of the records are written
            record["conversations"] = json.loads(turns.replace("diningtable", "dining table"))
        records.append(record)
    taken, report = read_experts(_file(tmp_path, records), "eto:alfworld", alfworld)
    assert report.taken + report.left_out["ambiguous"] == len(ids)
    assert report.left_out["ambiguous"] <= (2 if form == "text" else 0)
    assert {t.task_id for t in taken} <= set(ids)
    if not report.left_out:
        assert [t.task_id for t in taken] == list(ids)
    assert all(t.reward == 1.0 and t.success for t in taken)


def test_games_that_begin_alike_are_told_apart_by_how_they_go_on(
    tmp_path: Path, alfworld: gym.Env[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = _ids(alfworld)[:5]
    record = {**_record(alfworld, ids[3], _without_banner), "id": "alfworld_3"}
    monkeypatch.setattr(eto_experts._Finder, "_alike", lambda self, record: list(ids))
    (taken,), report = read_experts(_file(tmp_path, [record]), "eto:alfworld", alfworld)
    assert (taken.task_id, report.left_out) == (ids[3], {})
    monkeypatch.setattr(eto_experts._Finder, "_goes_on_as", lambda *_: True)
    with pytest.raises(DataError, match=r"1 ambiguous \(such as alfworld_3\)"):
        read_experts(_file(tmp_path, [record]), "eto:alfworld", alfworld)


def test_scienceworld_s_ids_name_a_task_and_a_variation(tmp_path: Path) -> None:
    pytest.importorskip("scienceworld")
    with gym.make("ETO/ScienceWorld-v0", split="train", split_scheme="eto") as env:
        inner = env.unwrapped
        assert isinstance(inner, TextEnv)
        task = next(each.id for each in inner.task_set if each.type == "find-animal")
        name, _, variation = task.partition("/")
        observation, _ = env.reset(options={"task": task})
        description = observation.partition("\nThis ")[0].removeprefix("Task Description:\n")
        conversations = [
            *INSTRUCTION,
            {"from": "human", "value": description},
            {"from": "gpt", "value": "Thought: Outside.\nAction: teleport to outside"},
        ]
        ident = f"{SCIENCEWORLD_TASKS.index(name)}_{variation}"
        outside = {"id": "5_0", "conversations": conversations}
        path = _file(tmp_path, [{"id": ident, "conversations": conversations}, outside])
        (taken,), report = read_experts(path, "eto:sciworld", env, prompt_style="instruction")
    assert (taken.task_id, taken.reward, taken.success) == (task, 1.0, True)
    assert report.left_out == {"not_in_split": 1}
    assert taken.messages[2].content == observation  # with the room, as an agent reads it


@pytest.mark.shared
def test_the_numbers_of_scienceworld_s_tasks_are_the_paper_s() -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "eto" / "sciworld" / "taskname2id.json"
    if not path.is_file():
        pytest.skip("the paper's lists are not beside the checkout")
    plain = {
        "".join(c for c in name if c.isalpha()): i for i, name in enumerate(SCIENCEWORLD_TASKS)
    }
    for name, number in json.loads(path.read_text()).items():
        bare = name.split("-", 2)[2].replace("mendellian", "mendelian")
        digits = bare[-1] if bare[-1].isdigit() else ""
        key = "".join(c for c in bare if c.isalpha())
        if digits:
            assert SCIENCEWORLD_TASKS[number].endswith(f"-{digits}")
        else:
            assert plain[key] == number, name


# --- in a loop -----------------------------------------------------------------------------------


def test_a_loop_trains_on_them_and_pairs_with_their_rewards(
    data: Path, tmp_path: Path, webshop: gym.Env[str, str]
) -> None:
    pytest.importorskip("trl")
    from eto_gym.trainers.data.pairing import make_pairs
    from eto_gym.trainers.loops.data_stages import DataStages
    from eto_gym.trainers.loops.play_stages import PlayStages
    from eto_gym.trainers.loops.stage_data import is_demonstration, load_trajectories
    from eto_gym.trainers.settings.world import ExpertSettings, WorldSettings

    ids = _ids(webshop)[:2]
    records = [
        {**_record(webshop, task), "id": int(task.removeprefix("human-")), "reward": reward}
        for task, reward in zip(ids, (0.6, 1.0), strict=True)
    ]
    path = data / "eto-trajectories" / "webshop_sft.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([*records, {"id": 1}]))
    stages = PlayStages(WorldSettings(env="ETO/WebShop-v0", prompt_style="none"), tmp_path / "run")
    stage = DataStages(stages).experts(ExpertSettings(expert_file="eto:webshop"))
    assert stage.result["left_out"] == {"malformed": 1}
    with pytest.raises(
        DataError, match=r"corrupt records, and strict is set: 2 of 3 .*1 malformed"
    ):
        DataStages(stages).experts(ExpertSettings(expert_file="eto:webshop", strict=True))
    experts = load_trajectories(stage)
    assert [t.reward for t in experts] == [0.6, 1.0]
    assert all(is_demonstration(t) for t in experts)
    agent = [
        replace(
            experts[0],
            reward=0.8,
            policy="agent",
            messages=(*experts[0].messages[:1], *experts[1].messages[1:]),
        ),
        replace(
            experts[1],
            reward=0.8,
            policy="agent",
            messages=(*experts[1].messages[:1], *experts[0].messages[1:]),
        ),
    ]
    pairs, report = make_pairs(agent, experts)
    assert (report.agent_chosen, report.expert_chosen) == (1, 1)
    assert [pair.info["chosen_reward"] for pair in pairs] == [0.8, 1.0]


@pytest.mark.parametrize("history", ["last:2", "state", "state:1"])
def test_a_loop_reads_them_with_its_own_history(
    history: str, data: Path, tmp_path: Path, webshop: gym.Env[str, str]
) -> None:
    """As it reads its own experts, and those of any other file: else they pair with nothing."""
    pytest.importorskip("trl")
    from eto_gym.agents.policies import expert_policy
    from eto_gym.agents.rollout.engine import Rollout, plan_episodes
    from eto_gym.trainers.data.pairing import make_pairs
    from eto_gym.trainers.loops.data_stages import DataStages
    from eto_gym.trainers.loops.play_stages import PlayStages
    from eto_gym.trainers.loops.stage_data import load_trajectories
    from eto_gym.trainers.settings.world import ExpertSettings, WorldSettings

    records = [
        {**_record(webshop, task), "id": int(task.removeprefix("human-")), "reward": 1.0}
        for task in _ids(webshop)[:2]
    ]
    path = data / "eto-trajectories" / "webshop_sft.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(records))

    def experts(history: str) -> Any:
        settings = WorldSettings(env="ETO/WebShop-v0", prompt_style="none", history=history)
        stages = DataStages(PlayStages(settings, tmp_path / "run"))
        return stages.experts(ExpertSettings(expert_file="eto:webshop"))

    whole, stage = experts("full"), experts(history)
    assert whole.key != stage.key, "read otherwise, they are another stage"
    taken = load_trajectories(stage)
    assert len(taken) == 2
    assert {t.history for t in taken} == {history}
    rollout = Rollout(
        lambda: webshop, expert_policy(), history=history, slots=1, prompt_style="none"
    )
    played = {t.task_id: t for t in rollout.play(plan_episodes([t.task_id for t in taken]))}
    for expert in taken:
        own = played[expert.task_id]
        assert expert.states == own.states
        assert expert.as_sampled() == own.as_sampled()
    failed = [
        replace(t, policy="agent", reward=0.0, success=False, steps=t.steps[:-1],
                messages=t.messages[:-2], states=t.states[:-1])
        for t in taken
    ]  # fmt: skip
    pairs, report = make_pairs(failed, taken)
    assert (len(pairs), dict(report.skipped)) == (2, {})


def test_a_loop_leaves_those_of_dev_tasks_out(
    data: Path, tmp_path: Path, webshop: gym.Env[str, str]
) -> None:
    pytest.importorskip("trl")
    from eto_gym.trainers.loops.data_stages import DataStages
    from eto_gym.trainers.loops.play_stages import PlayStages
    from eto_gym.trainers.loops.stage_data import load_trajectories
    from eto_gym.trainers.settings.world import ExpertSettings, WorldSettings

    def opened(dev_tasks: int) -> PlayStages:
        settings = WorldSettings(
            env="ETO/WebShop-v0", prompt_style="none", dev_split="train", dev_tasks=dev_tasks
        )
        stages = PlayStages(settings, tmp_path / "run")
        stages.open()
        return stages

    dev = opened(2).dev_ids()
    records = [
        {**_record(webshop, task), "id": int(task.removeprefix("human-")), "reward": 1.0}
        for task in (*dev, *opened(2).task_ids("train", 2))
    ]
    path = data / "eto-trajectories" / "webshop_sft.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(records))
    source = ExpertSettings(expert_file="eto:webshop")
    whole = DataStages(opened(0)).experts(source)
    assert whole.result["taken"] == 4
    stage = DataStages(opened(2)).experts(source)
    assert stage.key != whole.key
    assert (stage.result["taken"], stage.result["left_out"]) == (2, {"dev_task": 2})
    assert not {t.task_id for t in load_trajectories(stage)} & set(dev)
