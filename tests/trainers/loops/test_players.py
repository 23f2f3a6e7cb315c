"""Where the model of a stage plays: the same from servers, none of which outlives a run."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policies import expert_policy
from eto_gym.cli import train
from eto_gym.errors import EtoGymError
from eto_gym.testing.fake_endpoint import FakeEndpoint
from eto_gym.trainers.loops.early_experience import EarlyExperienceLoop
from eto_gym.trainers.loops.loop import Demonstrated
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.players import _template
from eto_gym.trainers.loops.run_folder import FINISHED, Stage
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.loops.step_stage import step_pairs
from eto_gym.trainers.settings.data import StepSettings
from eto_gym.trainers.settings.loops import EarlyExperienceSettings, ETOSettings, PPOLoopSettings
from eto_gym.trainers.settings.world import ExplorationSettings
from eto_gym.trajectories import Trajectory, TrajectoryStore
from tests.agents.serving.test_serving import alive, folders, until  # noqa: F401
from tests.toy import CORRIDOR

EXPLORE = ExplorationSettings()
SERVER = Path(__file__).with_name("fake_server.py")


def settings(kind: Any = ETOSettings, **changes: Any) -> Any:
    values = {
        "env": CORRIDOR, "data": "", "train_tasks": 4, "eval_tasks": 3, "max_steps": 4,
        "eval_split": "test", "prompt_style": "none", "max_new_tokens": 8, "max_context": 500,
        "slots": 4, "progress": False, "play_timeout": 60.0,
    }  # fmt: skip
    return kind(**{**values, **changes})


def play_in(folder: Path, **changes: Any) -> PlayStages:
    play = PlayStages(settings(**changes), folder)
    play.open()
    return play


def model_stage(play: PlayStages, model: Path | str) -> Stage:
    named = {"model": str(model)}
    return play.folder.run("model", lambda _: named, settings=named)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def own_server(log: Path, delay: float = 0.0) -> str:
    words = [sys.executable, "-S", str(SERVER), str(log), str(delay)]
    return f"{shlex.join(words)} {{model}} {{host}} {{port}}"


def started(log: Path) -> list[list[Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def said(trajectories: list[Trajectory]) -> list[Any]:
    return [(t.key, t.policy, t.seed, t.messages, t.outcome, t.reward) for t in trajectories]


def stored(stage: Stage) -> list[Trajectory]:
    return TrajectoryStore(stage.path / TRAJECTORIES).load(strict=True)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"play": "server"}, r"expected play in \{local, serve, .*got 'server'.*'serve'\?"),
        ({"play_command": "vllm serve {model} --host {host}"}, r"expected \{port\} in the command"),
        ({"play_command": "vllm 'serve"}, "cannot read the command"),
        ({"play": "endpoint:"}, "expected base URLs"),
        ({"play": "endpoint:ftp://host"}, "expected a base URL"),
        ({"play": "endpoint:http://me:secret@h"}, "without user and password"),
        ({"play": "endpoint:h", "play_model": "policy"}, "expected a play_hook"),
        ({"play": "endpoint:h", "play_hook": "load it"}, r"expected \{model\} in the command"),
        ({"play": "endpoint:h", "gpus": "0"}, "gpus is for play serve"),
        ({"play": "endpoint:h", "play_command": "x"}, "give one of them"),
        ({"play": "serve", "play_hook": "x {model}"}, "play_hook is for play endpoint"),
        ({"gpus": "0 1"}, "play is 'local'"),
        ({"play": "serve", "play_adapter": "{adapter} {name}"}, "as they are"),
        ({"play": "serve", "servers": -1}, "servers >= 0"),
        ({"launcher": "rays"}, r"expected launcher in \{local, ray, ray:N\}, got 'rays'"),
        ({"launcher": "ray:two"}, "got 'ray:two'"),
        ({"launcher": "ray", "play": "serve"}, "answer on its own machine only"),
    ],
)
def test_what_cannot_work_is_one_clear_line(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(EtoGymError, match=words) as told:
        settings(**wrong)
    assert "\n" not in str(told.value)
    assert "secret" not in str(told.value)


def test_scripted_policies_stay_with_their_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    names: list[str] = []
    monkeypatch.setattr("eto_gym.trainers.loops.play_stages.get_launcher", names.append)
    play = play_in(tmp_path / "run", launcher="ray:2")
    policy = play.policy_maker(model_stage(play, model), "explore", temperature=0.0)
    for make_policy in (expert_policy, policy):
        play._launcher(play.spec(make_policy, "train"))
    assert names == ["ray:2", "ray", "ray:2"], "the first tells what is missing, before anything"
    assert play_in(tmp_path / "other")._launcher(play.spec(policy, "train")) is None


def test_a_policy_bears_the_date_of_its_run_to_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setenv("ETO_GYM_DATE", "2024-02-29")
    play = play_in(tmp_path / "run")
    policy = play.policy_maker(model_stage(play, model), "explore", temperature=0.0)
    monkeypatch.delenv("ETO_GYM_DATE")
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        "eto_gym.trainers.loops.players.local_policy",
        lambda model, **options: given.update(options),
    )
    policy()
    assert given["date"] == "2024-02-29"


def test_methods_whose_model_plays_while_it_is_trained_refuse_servers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(EtoGymError, match="the model in training plays itself"):
        PPOLoopSettings(play="serve")
    with pytest.raises(EtoGymError, match="Servers play for eto"):
        train.main(["grpo", "--play-command", "x {model} {host} {port}", "--dry-run"])
    assert train.main(["eto", "--play", "serve", "--gpus", "0 1", "--dry-run"]) == 0
    assert "gpus: 0 1" in capsys.readouterr().out


# --- servers of others ----------------------------------------------------------------------------


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(models=["policy"]) as fake:
        yield fake


def followed(endpoint: FakeEndpoint, hook: str = "true {model}", **changes: Any) -> dict[str, Any]:
    named = {"play_model": "policy", "play_hook": hook}
    return {"play": f"endpoint:{endpoint.url}", **named, **changes}


def test_servers_of_others_are_told_the_weights_and_play_the_stage(
    endpoint: FakeEndpoint, model: Path, tmp_path: Path
) -> None:
    log = tmp_path / "told"
    hook = f"sh -c 'echo \"$1 $2\" >> {log}' hook {{model}} {{name}}"
    play = play_in(tmp_path / "run", **followed(endpoint, hook, template_kwargs={"think": False}))
    stage = play.explore("explore-1", model_stage(play, model), EXPLORE, tasks=4)
    assert log.read_text() == f"{model} explore-1\n"
    asked = endpoint.requests[0]
    assert asked["model"] == "policy"
    assert asked["chat_template_kwargs"] == {"think": False}
    assert {t.policy for t in stored(stage)} == {"explore-1"}
    assert [t.error for t in stored(stage)] == [None] * 4
    # The stage's name does not tell where it was played: a local run goes on from it.
    local = play_in(tmp_path / "run", template_kwargs={"think": False})
    again = local.explore("explore-1", model_stage(local, model), EXPLORE, tasks=4)
    assert again.reused
    assert again.key == stage.key
    # The next stage with the same weights does not tell them again; others are told.
    play.evaluate("it", "it", model_stage(play, model))
    assert len(log.read_text().splitlines()) == 1
    (other := tmp_path / "other").mkdir()
    (other / "config.json").write_text("{}")
    play.evaluate("other", "other", model_stage(play, other))
    assert log.read_text().splitlines()[1:] == [f"{other} eval-other"]


def test_an_endpoint_that_serves_something_else_is_refused(
    endpoint: FakeEndpoint, model: Path, tmp_path: Path
) -> None:
    play = play_in(tmp_path / "run", play=f"endpoint:{endpoint.url}")
    with pytest.raises(EtoGymError, match=r"serves 'policy', and not '.*/model': a play_hook has"):
        play.evaluate("it", "it", model_stage(play, model))
    endpoint.stop()
    quick = followed(endpoint, play_timeout=0.2)
    play = play_in(tmp_path / "run", **quick)
    with pytest.raises(EtoGymError, match=r"no answer from http.* within 0.2 s"):
        play.evaluate("it", "it", model_stage(play, model))


def test_servers_that_nobody_tells_of_new_weights_are_warned_of_before_any_training(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeEndpoint(models=[str(model)]) as fake:
        play = play_in(tmp_path / "run", play=f"endpoint:{fake.url}")
        play.evaluate("it", "it", model_stage(play, model))
        play.explore("explore-1", model_stage(play, model), EXPLORE, tasks=4)
        fake.models = None
        blind = play_in(tmp_path / "blind", play=f"endpoint:{fake.url}")
        blind.evaluate("it", "it", model_stage(blind, model))
    warned = [r.getMessage() for r in caplog.records if "no play_hook" in r.getMessage()]
    assert len(warned) == 1, "once, and not where servers may load what they are asked for"


def test_a_hook_that_fails_says_why(endpoint: FakeEndpoint, model: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for hook, seconds, words in (
        ("sh -c 'echo no such weights; exit 3' {model}", 60, r"status 3: .*\n.*\nno such weights"),
        ("sh -c 'sleep 9' {model}", 0.2, "took more than 0.2 s"),
        (f"{gone} {{model}}", 60, f"cannot run the play_hook '{gone}': No such"),
    ):
        gone.touch(mode=0o755)
        play = play_in(tmp_path / "run", **followed(endpoint, hook, play_timeout=seconds))
        gone.unlink()
        with pytest.raises(EtoGymError, match=words):
            play.evaluate("it", "it", model_stage(play, model))


def test_a_stage_that_servers_failed_at_is_played_again(
    endpoint: FakeEndpoint, model: Path, tmp_path: Path
) -> None:
    bad = {"on": True}

    def choose(body: dict[str, Any]) -> str | None:
        first = endpoint.requests[0]["messages"][0]
        return "refused" if bad["on"] and body["messages"][0] != first else None

    endpoint.choose = choose
    play = play_in(tmp_path / "run", **followed(endpoint, slots=1))
    start = model_stage(play, model)
    with pytest.raises(EtoGymError, match=r"no reply in \d of 4 episodes.*plays these anew"):
        play.explore("explore-1", start, EXPLORE, tasks=4)
    (folder,) = (tmp_path / "run/stages").glob("explore-1-*")
    assert not (folder / FINISHED).exists()
    before = TrajectoryStore(folder / TRAJECTORIES).load()
    lost = sum(t.error == "policy" for t in before)
    assert 0 < lost < 4
    bad["on"] = False
    endpoint.requests.clear()
    stage = play.explore("explore-1", start, EXPLORE, tasks=4)
    after = stored(stage)
    assert [t.error for t in after] == [None] * 4
    assert sum(len(r["messages"]) == 1 for r in endpoint.requests) == lost
    kept = {t.key: t for t in before if t.error is None}
    assert all(kept.get(t.key, t) == t for t in after)


def test_steps_that_servers_failed_at_are_no_stage_without_a_pair(
    endpoint: FakeEndpoint, model: Path, tmp_path: Path
) -> None:
    """Dead servers looked like a model that only says what the expert says."""
    endpoint.choose = lambda body: None if len(endpoint.requests) == 1 else "refused"
    play = play_in(tmp_path / "run", **followed(endpoint, slots=1))
    experts = play.rollouts(
        "experts", expert_policy, split="train", episodes=play.planned("train", 2), depends_on={}
    )
    start = model_stage(play, model)
    steps = StepSettings(reward="exact", rollouts=2)
    with pytest.raises(EtoGymError, match=r"steps-1: the servers gave no reply to \d+ of \d+ q"):
        step_pairs(play, "steps-1", steps, start, experts, tasks=2)
    tries = settings(EarlyExperienceSettings, **followed(endpoint, slots=1))
    loop = EarlyExperienceLoop(tries, tmp_path / "run")
    loop.play.open()
    endpoint.requests.clear()
    with pytest.raises(EtoGymError, match=r"experience: the servers gave no reply to \d+ of \d+ q"):
        loop._experience(Demonstrated(start, experts, start))
    for name in ("steps-1", "experience"):
        (folder,) = (tmp_path / "run/stages").glob(f"{name}-*")
        assert not (folder / FINISHED).exists()


def test_a_local_model_may_fail_at_some_and_not_at_all(tmp_path: Path) -> None:
    play = play_in(tmp_path / "run")
    play.check_replies({"policy": 5, "context": 4}, 9, "steps-1")
    with pytest.raises(EtoGymError, match="steps-1: the model gave no reply to 9 of 9"):
        play.check_replies({"policy": 5, "timeout": 4}, 9, "steps-1")
    play.check_replies({}, 0, "steps-1")


# --- servers of the run ---------------------------------------------------------------------------


def test_servers_run_while_a_stage_plays_and_only_then(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    play = play_in(
        tmp_path / "run",
        play_command=own_server(log),
        play_arguments="--dtype 'float 32'",
        servers=2,
    )
    stage = play.explore("explore-1", model_stage(play, model), EXPLORE, tasks=4)
    assert [t.error for t in stored(stage)] == [None] * 4
    assert len(started(log)) == 2
    for pid, served, *more in started(log):
        assert not alive(pid)
        assert served == str(model)
        assert more == ["--dtype", "float 32"]
    assert not (tmp_path / "run/served").exists()
    # What is finished starts nothing.
    again = play.explore("explore-1", model_stage(play, model), EXPLORE, tasks=4)
    assert again.reused
    assert len(started(log)) == 2


def test_a_server_that_does_not_come_up_tells_its_last_lines(model: Path, tmp_path: Path) -> None:
    command = "sh -c 'echo out of memory; exit 1' {model} {host} {port}"
    play = play_in(tmp_path / "run", play_command=command)
    with pytest.raises(EtoGymError, match=r"ended with status 1: .*\n.*\nout of memory"):
        play.evaluate("it", "it", model_stage(play, model))


def test_what_a_killed_run_left_for_servers_is_removed_at_the_next_start(tmp_path: Path) -> None:
    (merged := tmp_path / "run/served/merged").mkdir(parents=True)
    (merged / "model.safetensors").touch()
    play_in(tmp_path / "run")
    assert not merged.parent.exists()


def test_servers_are_given_the_template_that_a_local_player_reads(
    model: Path, tmp_path: Path
) -> None:
    (model / "chat_template.jinja").write_text("{{ plain }}")
    play = play_in(tmp_path / "run", play="serve")
    policy = play.policy_maker(model_stage(play, model), "it", temperature=0.0)
    (base := tmp_path / "base").mkdir()
    assert not _template(str(model), str(model), policy), "its own will do"
    assert _template(str(base), str(model), policy) == "{{ plain }}", "a base has not its adapter's"
    other = dataclasses.replace(policy, chat_template="{{ other }}")
    assert _template(str(model), str(model), other) == "{{ other }}"
    (model / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}")
    assert _template(str(model), str(model), policy), "the date is the run's"


def test_adapters_for_other_programs(
    folders: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    base, adapter = folders
    log = tmp_path / "log"
    loras = "--lora-modules {name}={adapter}"
    play = play_in(tmp_path / "run", play_command=own_server(log), play_adapter=loras)
    play.evaluate("it", "it", model_stage(play, adapter))
    ((_, served, *more),) = started(log)
    assert served == str(base)
    assert more == ["--lora-modules", f"eval-it={adapter.resolve()}"]
    # Without such arguments it is served merged, for as long as it plays.
    merged = play_in(tmp_path / "merged", play_command=own_server(log))
    merged.evaluate("it", "it", model_stage(merged, adapter))
    assert started(log)[1][1:] == [str(tmp_path / "merged/served/merged")]
    assert not (tmp_path / "merged/served").exists()


def test_exact_steps_ask_servers_too(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    play = play_in(tmp_path / "run", play_command=own_server(log))
    from eto_gym.agents.policies import expert_policy

    experts = play.rollouts(
        "experts", expert_policy, split="train", episodes=play.planned("train", 2), depends_on={}
    )
    assert not started(log), "an expert needs no server"
    steps = StepSettings(reward="exact", rollouts=2)
    stage = step_pairs(play, "steps-1", steps, model_stage(play, model), experts, tasks=2)
    assert stage.result["steps"] > 2
    assert len(started(log)) == 1


def _explore(folder: Path, model: Path, log: Path) -> None:
    play = play_in(folder, play_command=own_server(log, delay=0.2), servers=2)
    play.explore("explore-1", model_stage(play, model), EXPLORE, tasks=4)


def test_kill_9_leaves_no_server_and_the_stage_goes_on(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = multiprocessing.get_context("fork").Process(
        target=_explore, args=(tmp_path / "run", model, log)
    )
    process.start()

    def plays() -> bool:
        return any(path.stat().st_size for path in (tmp_path / "run").rglob(TRAJECTORIES))

    assert until(plays)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    pids = [pid for pid, *_ in started(log)]
    assert len(pids) == 2
    assert until(lambda: not any(map(alive, pids)), seconds=20)
    kept = TrajectoryStore(next((tmp_path / "run").rglob(TRAJECTORIES))).load()
    _explore(tmp_path / "run", model, log)
    (path,) = (tmp_path / "run").rglob(TRAJECTORIES)
    after = {t.key: t for t in TrajectoryStore(path).load(strict=True)}
    assert len(after) == 4
    assert all(after[t.key] == t for t in kept)


@pytest.mark.slow
def test_transformers_serve_plays_what_the_local_player_plays(
    folders: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    """One stage of an adapter, in float32: served on its base without merging."""
    for package in ("openai", "fastapi", "uvicorn"):
        pytest.importorskip(package)
    adapter = folders[1]
    options = {"play": "serve", "play_arguments": "--device cpu", "play_timeout": 250.0}
    served = play_in(tmp_path / "run", **options)
    local = play_in(tmp_path / "local")
    stages = [p.explore("e", model_stage(p, adapter), EXPLORE, tasks=4) for p in (served, local)]
    behind, here = map(stored, stages)
    assert said(behind) == said(here)
    assert len({m.content for t in here for m in t.messages if m.train}) > 4
    assert [t.usage["decoded_tokens"] for t in behind] == [t.usage["decoded_tokens"] for t in here]
    assert stages[0].path.name == stages[1].path.name
