"""The measurements of a run, each a function from a job to what it found."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from eto_gym.benchmarks import random_models
from eto_gym.benchmarks.gpu.plan import COMPILED, SHARING, STEPS, Job, Shapes
from eto_gym.files import write_json

ROOT = Path(__file__).resolve().parents[2]
LEARNING_RATE = 1e-5


def measure(job: Job, shapes: Shapes, scratch: Path) -> dict[str, Any]:
    """Do one job in this process; the GPU's memory is free again afterwards.

    Args:
        job: What is measured.
        shapes: How large it is.
        scratch: A folder that the jobs of a run share.

    Returns:
        What was found; with "error" alone, why nothing was.
    """
    import torch

    try:
        return _measure(job, shapes, scratch)
    except torch.OutOfMemoryError as err:
        return {"error": f"out of memory: {str(err).splitlines()[0]}"}
    except ImportError as err:
        return {"error": f"not installed here: {err.name or err}"}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _measure(job: Job, shapes: Shapes, scratch: Path) -> dict[str, Any]:
    if job.kind == "rate":
        return _rate(shapes)
    if job.kind == "dpo":
        return _dpo(job, shapes, scratch)
    if job.kind == "sft":
        return _sft(job, shapes, scratch)
    if job.kind == "rollouts":
        return _rollouts(job, shapes)
    if job.kind == "generate":
        return _generate(job, shapes)
    return run_tests(scratch / "tests.xml")


def _rate(shapes: Shapes) -> dict[str, Any]:
    """Name the card and its bf16 matrix rate, which all others are compared with."""
    import torch
    import transformers

    from eto_gym.benchmarks.meter import matrix_rate

    cuda = torch.cuda.is_available()
    card = torch.cuda.get_device_properties(0) if cuda else None
    return {
        "device": card.name if card else "CPU",
        "card_bytes": card.total_memory if card else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "operations_per_s": matrix_rate(shapes.matrix),
    }


# --- training ----------------------------------------------------------------------------------


def _dpo(job: Job, shapes: Shapes, scratch: Path) -> dict[str, Any]:
    from eto_gym.benchmarks import training

    setting = training.Job(
        architecture=job.model,
        method=job.method,
        variant=job.variant,
        prompt=job.tokens // 2,
        continuation=job.tokens - job.tokens // 2,
        pairs=shapes.pairs,
        epochs=STEPS,
        learning_rate=LEARNING_RATE,
        checkpointing=True,
        offload=False,
        precision="bf16",
        seed=0,
    )
    return training.measure(
        _tokenizer(scratch, job.model),
        setting,
        load=lambda settings: random_models.make_for_training(job.model, settings, seed=0),
    )


def _sft(job: Job, shapes: Shapes, scratch: Path) -> dict[str, Any]:
    from eto_gym.benchmarks import sft

    vocabulary = random_models.ARCHITECTURES[job.model]["vocab"]
    half = job.tokens // 2
    rows = scratch / f"rows-{vocabulary}-{job.tokens}.json"
    if not rows.exists():
        made = sft.random_rows(
            shapes.rows, half, job.tokens - half, vocabulary, shared=True, seed=0
        )
        write_json(rows, made)
    setting = sft.Job(
        variant=SHARING.get(job.variant, job.variant),
        model=str(_tokenizer(scratch, job.model)),
        rows=str(rows),
        batch=shapes.rows,
        micro_batch=shapes.rows,
        steps=STEPS,
        learning_rate=LEARNING_RATE,
        method=job.method,
        checkpointing=True,
        precision="bf16",
        seed=0,
    )
    found = sft.measure(
        setting, load=lambda settings: random_models.make_for_training(job.model, settings, seed=0)
    )
    per_token = random_models.operations(
        job.model,
        job.tokens,
        length=job.tokens,
        trained=0.4 * (job.tokens - half) / job.tokens,
        whole=job.method == "full",
    )
    rate = per_token / job.tokens * found["step_tokens_per_s"]
    return {**found, "operations_per_s": rate}


def _tokenizer(scratch: Path, model: str) -> Path:
    """Return the folder of a model's tokenizer, made when it is first asked for."""
    folder = scratch / f"tokenizer-{model}"
    if not folder.exists():
        random_models.save_tokenizer(folder, model)
    return folder


# --- rollouts ----------------------------------------------------------------------------------


def _rollouts(job: Job, shapes: Shapes) -> dict[str, Any]:
    """Play conversations of random words side by side with the local player."""
    from eto_gym.agents.models.codec import ChatCodec
    from eto_gym.benchmarks import policy

    model, tokenizer = _player(job.model)
    found = policy.measure(
        model,
        ChatCodec(tokenizer),
        batch=job.conversations,
        keep=True,
        turns=shapes.turns,
        instruction=shapes.instruction,
        observation=shapes.observation,
        reply=shapes.reply,
        compile=job.variant == COMPILED,
    )
    return {**found, **_rates(job.conversations, found["decoded"], found["wall_s"])}


def _generate(job: Job, shapes: Shapes) -> dict[str, Any]:
    """Play like conversations one after another, each reply by `generate` on the whole prompt."""
    import numpy as np
    import torch

    from eto_gym.benchmarks.policy import WORDS

    model, tokenizer = _player(job.model)
    rng = np.random.default_rng(0)
    decoded, start = 0, 0.0
    for number in range(-1, job.conversations):  # the first one, of a single turn, warms up
        if number == 0:
            start = time.perf_counter()
        text = " ".join(rng.choice(WORDS, shapes.instruction + shapes.observation))
        for _ in range(shapes.turns if number >= 0 else 1):
            ids = torch.tensor([tokenizer.encode(text)], device=model.device)
            with torch.inference_mode():
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    min_new_tokens=shapes.reply,
                    max_new_tokens=shapes.reply,
                    pad_token_id=tokenizer.pad_token_id,
                )
            new = out[0, ids.shape[1] :].tolist()  # copied to the host, so it waits for the GPU
            decoded += len(new) if number >= 0 else 0
            text += tokenizer.decode(new) + " " + " ".join(rng.choice(WORDS, shapes.observation))
    return _rates(job.conversations, decoded, time.perf_counter() - start)


def _rates(conversations: int, decoded: float, seconds: float) -> dict[str, float]:
    return {
        "rollouts_per_hour": conversations * 3600 / seconds,
        "decoded_per_s": decoded / seconds,
        "wall_s": seconds,
    }


def _player(architecture: str) -> tuple[Any, Any]:
    """Return a model in bf16 that says only whole words, and a tokenizer with a chat template."""
    import torch

    from eto_gym.agents.models.tiny import train_tokenizer
    from eto_gym.benchmarks import policy

    tokenizer = train_tokenizer([" " + " ".join(policy.WORDS)] * 9, vocab_size=400)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = random_models.make(architecture, seed=0, dtype=torch.bfloat16, device=device).eval()
    policy.speak_words(model, tokenizer)
    return model, tokenizer


# --- tests -------------------------------------------------------------------------------------


def run_tests(report: Path) -> dict[str, Any]:
    """Run the tests marked `cuda` in a process of their own, and count how they ended.

    Only files that have such tests are read: others need packages that are not here.

    Args:
        report: Where pytest writes its report.
    """
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", *marked_files()]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if not report.exists():
        lines = (done.stdout + done.stderr).strip().splitlines() or ["nothing was said"]
        return {"error": f"pytest ended with {done.returncode}: {lines[-1]}"}
    return count_tests(report)


def marked_files() -> list[str]:
    """Return the files of the checkout's tests in which some are marked `cuda`."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file) for file in files if "@pytest.mark.cuda\n" in file.read_text("utf-8")]


def count_tests(report: Path) -> dict[str, Any]:
    """Return from a report of pytest how many tests passed, failed and were skipped, and which."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or _is_error(case)]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "failures": [f"{case.get('classname')}::{case.get('name')}" for case in failed],
    }


def _is_error(case: ElementTree.Element) -> bool:
    return case.find("error") is not None


# --- a process of jobs --------------------------------------------------------------------------


def main() -> None:
    """Do the jobs that are read from standard input, one per line; answer each by a line.

    Answers go to the file descriptor that is the first argument: libraries print on the others.
    """
    answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    shapes = Shapes(**json.loads(sys.argv[2]))
    with tempfile.TemporaryDirectory() as scratch:
        for line in sys.stdin:
            try:
                found = measure(Job(**json.loads(line)), shapes, Path(scratch))
            except Exception as err:
                traceback.print_exc()
                said = (str(err).splitlines() or [""])[0]
                # A GPU is of no use to a process in which a kernel failed.
                found = {"error": f"{type(err).__name__}: {said}", "over": True}
            answers.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
