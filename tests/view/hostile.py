"""Episodes, pairs and runs with text that would run, break out or steer, if it could."""

from __future__ import annotations

import json
from pathlib import Path

from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory, TrajectoryStore

ATTACKS = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<!--<script>",
    "\"'><svg onload=window.ran=1>",
    "javascript:window.ran=1",
    "]]>&lt;script&gt;",
    "\u2028\u2029\ud800\x00\x1b[2J",
    "${window.ran=1}{{window.ran=1}}",
)
HOSTILE = " ".join(ATTACKS)


def hostile_episode(sample: int = 0, *, success: bool = True) -> Trajectory:
    reply = f"Thought: {HOSTILE}\nAction: {ATTACKS[2]}"
    return Trajectory(
        task_id=HOSTILE,
        task_type=HOSTILE,
        messages=(
            Message("user", HOSTILE),
            Message("assistant", reply, True),
            Message("user", HOSTILE),
            Message("assistant", HOSTILE, True),
        ),
        steps=(Step(ATTACKS[2], HOSTILE, 0.5), Step(None, HOSTILE, 0.5)),
        outcome="terminated",
        reward=1.0,
        success=success,
        policy=HOSTILE,
        env={HOSTILE: HOSTILE},
        sample=sample,
        facts=(
            {"finish": HOSTILE, "seconds": HOSTILE, "admissible_actions": [HOSTILE]},
            {"finish": "length", "decoded_tokens": HOSTILE, "admissible": False},
        ),
    )


def write_hostile(folder: Path) -> Path:
    """Write a run folder in which every text is hostile."""
    for name in ("explore-0123456789ab", "eval-0123456789ac"):
        stage = folder / "stages" / name
        with TrajectoryStore(stage / "trajectories.jsonl") as store:
            store.add(hostile_episode(success=name.startswith("eval")))
            store.add(hostile_episode(1))
        (stage / "finished.json").write_text(json.dumps({"seconds": 2.0, "result": HOSTILE}))
    pair = {
        "id": HOSTILE,
        "prompt": [{"from": "human", "value": HOSTILE}],
        "chosen": [{"from": "gpt", "value": f"Thought: {HOSTILE}\nAction: {HOSTILE}"}],
        "rejected": [{"from": "gpt", "value": HOSTILE}],
    }
    stage = folder / "stages" / "pairs-0123456789ad"
    (stage / "model").mkdir(parents=True)
    (stage / "pairs.json").write_text(json.dumps([pair]))
    metrics = [{"step": i, "loss": 1.0 / i, HOSTILE: float(i)} for i in (1, 2, 3)]
    training = {"method": HOSTILE, "metrics": metrics}
    (stage / "model" / "training.json").write_text(json.dumps(training))
    policy = {
        **{"policy": HOSTILE, "episodes": 2, "steps": 2.0, "format_errors": 0.5, "errors": {}},
        "success": {"mean": 0.5, "low": 0.1, "high": 0.9},
        "paired": {"gained": 1, "lost": 0, "p": 1.0},
        "card": {"env": HOSTILE, HOSTILE: HOSTILE, "counts": {HOSTILE: HOSTILE}},
    }
    report = {"method": HOSTILE, "env": HOSTILE, "preset": HOSTILE, "seed": HOSTILE}
    (folder / "report.json").write_text(json.dumps({**report, "policies": [policy]}))
    return folder
