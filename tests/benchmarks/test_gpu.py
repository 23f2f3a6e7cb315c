"""The measurement of a GPU, run without one: tiny shapes, and times that a clock of ours tells."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eto_gym.benchmarks import random_models
from eto_gym.benchmarks.gpu import bundle
from eto_gym.benchmarks.gpu.jobs import count_tests, marked_files
from eto_gym.benchmarks.gpu.plan import SHAPES, Job, Part, parts, refusal
from eto_gym.benchmarks.gpu.run import Row, main, run
from eto_gym.benchmarks.gpu.table import compare, table
from eto_gym.benchmarks.gpu.worker import Here, Worker

TINY = SHAPES["tiny"]
FULL = SHAPES["full"]
ROOT = Path(__file__).resolve().parents[2]


# --- a dry run ---------------------------------------------------------------------------------


def quick(part: Part) -> Part:
    """Leave one method for each kind of training, by TRL and by ours, and whole DPO by TRL."""
    own_reference = Job("dpo", "tiny", "full", 64, "trl")
    kept = [
        job
        for job in part.jobs
        if (
            (job.kind, job.method) in {("dpo", "qlora"), ("sft", "lora")}
            and job.variant != "padded"
        )
        or job == own_reference
        or not job.method
    ]
    return Part(part.name, part.seconds, tuple(kept[:2] if part.name == "rollouts" else kept))


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Path]:
    for name in ("trl", "peft", "bitsandbytes"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("gpu")
    plan = [quick(part) for part in parts(TINY) if part.name != "tests"]
    rows = run(plan, Here(TINY, folder), folder / "gpu.json", {"dry_run": True}, seconds=math.inf)
    return rows, folder


def test_every_part_runs_on_a_cpu(dry: tuple[list[Row], Path]) -> None:
    rows, folder = dry
    assert [row for row in rows if "error" in row] == []
    assert {row["kind"] for row in rows} == {"rate", "dpo", "sft", "rollouts", "generate"}
    written = json.loads((folder / "gpu.json").read_text())
    assert written["dry_run"] is True
    assert len(written["rows"]) == len(rows)
    assert (folder / "gpu.md").read_text() == table(rows)
    for row in rows:
        if row["kind"] in ("dpo", "sft"):
            assert len(row["steps_s"]) == 3
            assert row["step_tokens_per_s"] > 0 < row["operations_per_s"]
    (player,) = [row for row in rows if row["kind"] == "rollouts"]
    assert player["decoded"] == 2 * TINY.turns * TINY.reply
    assert player["rollouts_per_hour"] == pytest.approx(2 * 3600 / player["wall_s"])


def test_all_train_the_same_rows(dry: tuple[list[Row], Path]) -> None:
    rows, _ = dry
    compared = [row for row in rows if row["variant"] == "ours"]
    assert {(row["kind"], row["method"]) for row in compared} == {("dpo", "qlora"), ("sft", "lora")}
    for row in compared:
        assert compare(rows, row)["difference"] < 1e-3
    starts = [row["losses"][0] for row in rows if row["kind"] == "dpo"]
    assert starts == pytest.approx([math.log(2)] * 3, rel=1e-5)


# --- time --------------------------------------------------------------------------------------


class Fake:
    """Takes the seconds that a job's tokens say; no more than it is given."""

    def __init__(self) -> None:
        self.time = 0.0
        self.done: list[Job] = []

    def do(self, job: Job, seconds: float) -> dict[str, Any]:
        self.done.append(job)
        self.time += min(job.tokens, seconds)
        fine = {"passed": 1, "failed": 0, "skipped": 0, "failures": []}
        return {"error": "cut"} if job.tokens > seconds else fine


def fake_run(plan: list[Part], tmp_path: Path, seconds: float) -> tuple[Fake, list[Row]]:
    fake = Fake()
    rows = run(plan, fake, tmp_path / "out.json", {}, seconds=seconds, now=lambda: fake.time)
    return fake, rows


def test_a_part_ends_in_time_and_says_what_it_left_out(tmp_path: Path) -> None:
    slow = (Job("tests", tokens=4),) * 4
    plan = [Part("first", 10, slow), Part("second", 10, (Job("tests", tokens=9),))]
    fake, rows = fake_run(plan, tmp_path, 20.0)
    assert fake.time == 8 + 9
    told = [row.get("error") for row in rows]
    assert told[:2] == [None, None]
    assert told[2] == told[3] == "not begun: 2 s were left, the last took 4"
    assert told[4] is None
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 5


def test_what_a_part_leaves_the_next_ones_have(tmp_path: Path) -> None:
    plan = [Part("first", 10, (Job("tests", tokens=1),)), Part("b", 10, (Job("tests", tokens=19),))]
    assert fake_run(plan, tmp_path, 20.0)[0].time == 20
    _, rows = fake_run(plan, tmp_path, 10.0)  # half of everything
    assert [row.get("error") for row in rows] == [None, "cut"]


def test_the_whole_plan_fits_eight_minutes_and_holds_what_is_asked() -> None:
    plan = parts(FULL)
    assert sum(part.seconds for part in plan) == 480
    jobs = [job for part in plan for job in part.jobs]
    assert len(jobs) == len(set(jobs)) == 1 + 2 * 2 * 2 * 9 + 4 + 1
    assert [part.name for part in parts(FULL, ["tests"])] == ["rate", "tests"]


def test_without_a_gpu_only_a_dry_run_goes_on(tmp_path: Path) -> None:
    class NoGpu(Fake):
        def do(self, job: Job, seconds: float) -> dict[str, Any]:
            return {"card_bytes": None, "operations_per_s": 1.0}

    with pytest.raises(SystemExit, match="no GPU here; --dry-run"):
        run(parts(FULL), NoGpu(), tmp_path / "gpu.json", {"dry_run": False})
    with pytest.raises(SystemExit):
        main(["--parts", "dpo-3B"])


def test_what_cannot_fit_is_not_tried() -> None:
    card = 80 * 2**30
    seven = random_models.parameters("7B")
    assert 7.5e9 < seven < 7.7e9
    assert 1.5e9 < random_models.parameters("1.5B") < 1.6e9
    whole = refusal(Job("dpo", "7B", "full", 4096, "ours"), card)
    assert whole is not None
    assert whole.startswith("does not fit: weights, gradients and optimizer take 113 GiB")
    for job in (Job("dpo", "7B", "lora", 4096, "trl"), Job("dpo", "1.5B", "full", 8192, "trl")):
        assert refusal(job, card) is None
    assert refusal(Job("dpo", "7B", "full", 4096, "ours"), None) is None


# --- the process that measures -----------------------------------------------------------------

SCRIPT = """
import json, os, sys, time
answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
assert json.loads(sys.argv[2])["small"] == "tiny"
for number, line in enumerate(sys.stdin):
    print("noise")
    method = json.loads(line)["method"]
    if method == "die":
        sys.exit(7)
    if method == "hang":
        time.sleep(1000)
    answers.write(json.dumps({"number": number, "over": method == "over"}) + "\\n")
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(TINY, tmp_path / "log", command=[sys.executable, "-c", SCRIPT])
    yield made
    made.close()


def test_a_job_costs_no_other_one_its_result(worker: Worker, tmp_path: Path) -> None:
    def told(method: str, seconds: float = 200.0) -> dict[str, Any]:
        return worker.do(Job("dpo", method=method), seconds)

    assert told("fine") == {"number": 0}
    assert told("fine") == {"number": 1}  # the same process
    assert told("die") == {"error": f"its process ended with 7; {tmp_path / 'log'} tells more"}
    assert told("over") == {"number": 0}
    assert told("fine") == {"number": 0}
    assert told("hang", 0.1)["error"].startswith("cut after 0 s")
    assert told("fine") == {"number": 0}
    assert "noise" in (tmp_path / "log").read_text()


# --- tests, table, archive ---------------------------------------------------------------------


def test_tests_are_counted_from_pytests_report(tmp_path: Path) -> None:
    tmp_path.joinpath("report.xml").write_text(
        '<testsuites><testsuite><testcase classname="a" name="one"/>'
        '<testcase classname="a" name="two"><failure/></testcase>'
        '<testcase classname="a" name="three"><skipped/></testcase>'
        '<testcase classname="b" name="four"><error/></testcase></testsuite></testsuites>'
    )
    found = count_tests(tmp_path / "report.xml")
    assert found == {"passed": 1, "failed": 2, "skipped": 1, "failures": ["a::two", "b::four"]}
    row = {"kind": "tests", **found}
    told = table([row]).splitlines()
    assert told == ["Tests marked `cuda`: 1 passed, 2 failed, 1 skipped", "- a::two", "- b::four"]


def test_only_files_with_such_tests_are_read() -> None:
    names = [Path(file).name for file in marked_files()]
    assert {"test_local.py", "test_dpo_memory.py", "test_lora.py"} <= set(names)
    assert Path(__file__).name not in names


def test_the_table_says_what_was_not_measured() -> None:
    job = {"part": "p", "kind": "dpo", "model": "7B", "method": "full", "tokens": 4096}
    rows = [{**job, "variant": "ours", "error": "does not fit"}]
    assert "| DPO | 7B | full | 4,096 | ours, sharing on | does not fit |" in table(rows)
    assert compare(rows, rows[0]) == {}


def test_everything_packed_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    wanted = bundle.pins(bundle.PACKAGES, pins)
    assert len(wanted) == len(bundle.PACKAGES)
    assert all("==" in line for line in wanted)
    assert bundle.pins(["a-b"], "# none\nA_b==1.2+cpu\n") == ["A_b==1.2"]
    with pytest.raises(SystemExit, match="pins no version of c"):
        bundle.pins(["a-b", "c"], "a.b==1\n")


def test_what_no_measurement_loads_is_left_out(tmp_path: Path) -> None:
    kept = {
        "bitsandbytes/libbitsandbytes_cuda130.so",
        "bitsandbytes/libbitsandbytes_cpu.so",
        "pyarrow/libarrow.so.2600",
        "pyarrow/libarrow_python.so.2600",
        "pandas/_testing/__init__.py",
        "trl/trainer/utils.py",
    }
    left_out = {
        "bitsandbytes/libbitsandbytes_cuda128.so",
        "bitsandbytes/libbitsandbytes_rocm70.so",
        "pyarrow/libarrow_flight.so.2600",
        "pyarrow/libarrow_python.so",
        "pyarrow/libarrow_python.so.2600.1.0",
        "pyarrow/include/arrow/api.h",
        "pandas/tests/frame/test_api.py",
    }
    for name in kept | left_out:
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    site = tmp_path / "site"
    bundle.prune(site, cuda="13.0")
    assert {p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()} == kept
    bundle.pack(site, tmp_path / "one.tar.xz")
    bundle.pack(site, tmp_path / "two.tar.xz")
    assert (tmp_path / "one.tar.xz").read_bytes() == (tmp_path / "two.tar.xz").read_bytes()
    with pytest.raises(SystemExit, match=r"no library for CUDA 11\.8: expected one of 130"):
        bundle.prune(site, cuda="11.8")


def test_the_script_unpacks_the_archive_and_looks_into_it_first(tmp_path: Path) -> None:
    for name in ("benchmarks/gpu.sh", "eto_gym/benchmarks/gpu/__main__.py"):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((ROOT / "benchmarks/gpu.sh").read_text() if name.endswith("sh") else "")
    target.write_text("import packed, sys\nprint(packed.NAME, sys.argv[1:])\n")
    packed = tmp_path / "site" / "packed.py"
    packed.parent.mkdir()
    packed.write_text("NAME = 'from the archive'\n")
    bundle.pack(packed.parent, tmp_path / "checkout" / bundle.ARCHIVE)
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--seconds", "5"],
        cwd=tmp_path / "checkout",
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "from the archive ['--seconds', '5']\n"
