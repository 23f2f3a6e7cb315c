"""Measure supervised fine-tuning against stock TRL on the same rows: memory, speed, equal losses.

    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.sft --prompts 500 1500
    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.sft --prompts 0 500 --own-prompts
    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.sft --data FILE --model FOLDER --batch 4
    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.sft --data FILE --model FOLDER --batch 4 \
        --variants ours --precision fp32 bf16 --micro-batch 2 1

Every variant runs in a process of its own, one after another. The model has random weights (see
`eto_gym.benchmarks.random_models`), and all rows begin with one prompt, as the conversations of an
environment do with its instruction and worked example; then come turns of agent and environment, of
random tokens. With `--data` rows are demonstrations, in any form that `train sft`
reads, and `--model` is a folder.

Variants:
    trl: TRL's SFTTrainer, given the tokens and labels of the same rows.
    trl-packed: the same with `padding_free`: all rows of a pass in one, with transformers' mask.
    padded: ours with `share_prefix="off"`.
    tree: ours with `share_prefix="on"`.
    ours: ours as it is by default.

With several values of `--precision` or `--micro-batch` every variant runs with each.

Options are equal on both sides: precision, optimizer (AdamW), learning rate, rows per pass, and no
truncation. TRL draws its batches in another order: it has the same losses where all rows are in
each optimizer step, which they are unless `--batch` says otherwise.

Columns:
    peak: largest resident memory from before the model is loaded until training ends, over the
        resident memory when all is imported, in MB.
    training: the same from when the model is loaded.
    held: resident memory after the last step, over that when all is imported: what later stages of
        the same process start from; 0 on a GPU.
    tok/CPU s: tokens of the rows, padding not counted, over the CPU time from the loaded model to
        the trained one; in the column tok/s, over wall time.
    loss: of the last step; diff: largest relative difference to the first variant over all steps.
    share_prefix: what ours did, with what trees save of the tokens of padded rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eto_gym.benchmarks import random_models
from eto_gym.files import write_json

VARIANTS = ("trl", "trl-packed", "padded", "tree", "ours")
METHODS = ("full", "lora", "qlora")
PRECISIONS = ("fp32", "bf16")
SHARING = {"padded": "off", "tree": "on", "ours": "auto"}

Tokens = list[tuple[list[int], list[bool]]]
"""Of every row, its tokens, and which of them are trained."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement, on the rows of a file."""

    variant: str
    model: str
    rows: str
    batch: int
    micro_batch: int
    steps: int
    learning_rate: float
    method: str
    checkpointing: bool
    precision: str
    seed: int
    recompute_cheap: bool = False


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and write it as JSON with `--json`."""
    args = read_options(argv)
    if args.worker:
        print(json.dumps(measure(Job(**json.loads(args.worker)))))
        return

    import torch

    machine = {
        "device": platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "command": " ".join(["python -m eto_gym.benchmarks.sft", *(argv or sys.argv[1:])]),
    }
    print(json.dumps(machine))
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(args.model)
        if not args.data:
            model = Path(scratch) / args.model
            random_models.build(model, args.model, args.seed)
        for prompt in [0] if args.data else args.prompts:
            title, rows = rows_of(args, model, prompt)
            file = Path(scratch) / f"rows-{prompt}.json"
            write_json(file, rows)
            print(f"\n{args.model}, {title}, {len(rows)} rows, {args.steps} steps")
            group = [run(job) for job in jobs(args, model, file, len(rows))]
            show(group)
            table += [{**row, "title": title} for row in group]
    if args.json:
        write_json(args.json, {"machine": machine, "rows": table})


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="6x256", help="architecture, or folder with --data")
    parser.add_argument("--data", type=Path, help="file of demonstrations")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--prompts", type=int, nargs="+", default=[500, 1500])
    parser.add_argument("--own-prompts", action="store_true", help="every row has its own")
    parser.add_argument("--continuation", type=int, default=500, help="tokens after the prompt")
    parser.add_argument("--rows", type=int, default=8, help="of random tokens")
    parser.add_argument("--batch", type=int, help="rows per optimizer step; default: all")
    parser.add_argument("--micro-batch", type=int, nargs="+", default=[4], help="rows per pass")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--method", choices=METHODS, default="full", help="adapters of rank 16")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--recompute-cheap", action="store_true", help="ours: not products")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the rows of the table")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def rows_of(args: argparse.Namespace, model: Path, prompt: int) -> tuple[str, Tokens]:
    """Return what is trained on, with its title: the file's rows, or random ones.

    Args:
        args: The options.
        model: Folder of the model.
        prompt: Tokens of the prompt of random rows.
    """
    if args.data:
        return str(args.data), stored_rows(args.data, model)
    rows = random_rows(
        args.rows,
        prompt,
        args.continuation,
        random_models.ARCHITECTURES[args.model]["vocab"],
        shared=not args.own_prompts,
        seed=args.seed,
    )
    return f"{'own' if args.own_prompts else 'shared'} prompt {prompt}", rows


def jobs(args: argparse.Namespace, model: Path, file: Path, rows: int) -> Iterator[Job]:
    """Yield the measurements of a file with so many rows, variants of one setting together."""
    for precision in args.precision:
        for micro_batch in args.micro_batch:
            for variant in args.variants:
                yield Job(
                    variant=variant,
                    model=str(model),
                    rows=str(file),
                    batch=args.batch or rows,
                    micro_batch=micro_batch,
                    steps=args.steps,
                    learning_rate=args.learning_rate,
                    method=args.method,
                    checkpointing=args.checkpointing,
                    recompute_cheap=args.recompute_cheap,
                    precision=precision,
                    seed=args.seed,
                )


def run(job: Job) -> dict[str, Any]:
    """Measure one variant in a process of its own."""
    command = ["-m", "eto_gym.benchmarks.sft", "--worker", json.dumps(dataclasses.asdict(job))]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True)
    return {**dataclasses.asdict(job), **json.loads(done.stdout.splitlines()[-1])}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the variants of one setting, each beside the ratios of the last one to it."""
    print(
        f"{'variant':<11}{'':<5}{'pass':>5}{'peak MB':>8}{'training':>9}{'held':>6}"
        f"{'CPU s':>8}{'wall s':>8}{'tok/CPU s':>10}"
        f"{'tok/s':>8}{'loss':>10}{'diff':>9}{'last: peak':>11}{'tok/CPU s':>10}  share_prefix"
    )
    for row in rows:
        row["difference"] = max(
            abs(a - b) / abs(b) for a, b in zip(row["losses"], rows[0]["losses"], strict=True)
        )
        peak = rows[-1]["peak_mb"] / row["peak_mb"]
        speed = rows[-1]["tokens_per_cpu_s"] / row["tokens_per_cpu_s"]
        print(
            f"{row['variant']:<11}{row['precision']:<5}{row['micro_batch']:>5}"
            f"{row['peak_mb']:>8.0f}{row['training_mb']:>9.0f}{row['held_mb']:>6.0f}"
            f"{row['cpu_s']:>8.1f}{row['wall_s']:>8.1f}{row['tokens_per_cpu_s']:>10.0f}"
            f"{row['tokens_per_s']:>8.0f}{row['losses'][-1]:>10.6f}{row['difference']:>9.1e}"
            f"{peak:>10.2f}x{speed:>9.2f}x  {row['share_prefix']}",
            flush=True,
        )


def random_rows(
    count: int, prompt: int, continuation: int, vocabulary: int, *, shared: bool, seed: int
) -> Tokens:
    """Return rows with a prompt that all share, or with one each; 40% after it is the agent's."""
    rng = random.Random(seed)
    half = vocabulary // 2

    def words(number: int) -> list[int]:
        return [rng.randrange(2, vocabulary) for _ in range(number)]

    same = words(prompt)
    rows: Tokens = []
    for _ in range(count):
        ids = list(same) if shared else words(prompt)
        mask = [False] * prompt
        while len(ids) < prompt + continuation:
            ids += [rng.randrange(2, half) for _ in range(20)]
            ids += [rng.randrange(half, vocabulary) for _ in range(30)]
            mask += [True] * 20 + [False] * 30
        rows.append((ids[: prompt + continuation], mask[: prompt + continuation]))
        rows[-1][1][0] = False  # nothing comes before it
    return rows


def stored_rows(path: Path, model: Path) -> Tokens:
    """Return demonstrations, in any form that `train sft` reads, as the model's tokens."""
    from eto_gym.trainers.data.encoding import encode_trajectories
    from eto_gym.trainers.model.models import default_codec, load_tokenizer
    from eto_gym.trajectories.formats import read_demonstrations

    codec = default_codec(load_tokenizer(model))
    trajectories, _ = read_demonstrations(path, strict=True)
    rows, _ = encode_trajectories(codec, trajectories, max_length=1 << 20)
    return [(row.ids, row.mask) for row in rows]


def measure(job: Job, *, load: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Train one variant, and return what it took.

    Args:
        job: What is trained, and how; `model` is the folder of the tokenizer alone where `load` is
            given.
        load: Returns the model for the settings of the training; by default it is read from disk.
    """
    import torch
    from transformers import AutoTokenizer

    from eto_gym.benchmarks.meter import Meter
    from eto_gym.trainers import SFTSettings
    from eto_gym.trainers.data.encoding import TokenRow
    from eto_gym.trainers.methods.sft import TurnSFTTrainer
    from eto_gym.trainers.model.models import load_for_training, quiet_libraries
    from eto_gym.trainers.run.callbacks import set_callbacks

    rows = [TokenRow(*row) for row in json.loads(Path(job.rows).read_text())]
    paged = job.method == "qlora" and torch.cuda.is_available()
    settings = SFTSettings(
        learning_rate=job.learning_rate,
        max_steps=job.steps,
        batch_size=job.batch,
        micro_batch_size=job.micro_batch,
        schedule="constant",
        warmup_ratio=0,
        precision=job.precision,
        gradient_checkpointing=job.checkpointing,
        recompute_cheap=job.recompute_cheap,
        optimizer="paged_adamw8bit" if paged else "adamw",
        lora_r=0 if job.method == "full" else 16,
        qlora=job.method == "qlora",
        seed=job.seed,
        share_prefix=SHARING.get(job.variant, "off"),
    )
    if job.method != "full":
        import peft  # noqa: F401
    if job.method == "qlora":
        import bitsandbytes  # noqa: F401
    if job.variant.startswith("trl"):
        import trl.trainer.sft_trainer  # noqa: F401
    tokenizer: Any = AutoTokenizer.from_pretrained(job.model)
    with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
        meter = Meter()
        model = load(settings) if load else load_for_training(job.model, settings)
        meter.loaded(model)
        if job.variant.startswith("trl"):
            trainer = stock(job, settings, model, tokenizer, rows, Path(scratch))
        else:
            trainer = TurnSFTTrainer(
                settings, model=model, rows=rows, tokenizer=tokenizer, workspace=Path(scratch)
            )
        trainer.args.save_strategy = "no"
        set_callbacks(trainer, meter)
        trainer.train()
        # With TRL every step has all rows, or it is not known which.
        whole = sum(len(row.ids) for row in rows) * job.steps * job.batch / len(rows)
        results = meter.results(tokens=getattr(trainer, "tokens_seen", whole))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        **results,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "share_prefix": getattr(trainer, "notes", {}).get("share_prefix", "-"),
    }


def stock(
    job: Job, settings: Any, model: Any, tokenizer: Any, rows: Sequence[Any], workspace: Path
) -> Any:
    """Return TRL's trainer."""
    import torch
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from eto_gym.trainers.data.batching import IGNORED
    from eto_gym.trainers.model.models import lora_config, uses_bf16

    data = [
        {
            "input_ids": row.ids,
            "labels": [i if t else IGNORED for i, t in zip(row.ids, row.mask, strict=True)],
        }
        for row in rows
    ]
    return SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(workspace),
            per_device_train_batch_size=job.micro_batch,
            gradient_accumulation_steps=job.batch // job.micro_batch,
            max_steps=job.steps,
            learning_rate=job.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            optim="paged_adamw_8bit" if settings.optimizer == "paged_adamw8bit" else "adamw_torch",
            max_length=None,
            padding_free=job.variant == "trl-packed",
            bf16=uses_bf16(settings),
            gradient_checkpointing=job.checkpointing,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=job.seed,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        peft_config=lora_config(settings) if settings.lora_r else None,
    )


if __name__ == "__main__":
    main()
