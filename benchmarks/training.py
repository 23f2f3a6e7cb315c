"""Measure trajectory DPO against stock TRL on the same pairs: memory, speed, and equal losses.

    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.training --prompts 500 1500 3000
    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.training --data PAIRS --models FOLDER --pairs 8

Models have random weights and are built from their configuration; nothing is downloaded. Every
variant runs in a process of its own, one after another. A pair has a prompt of its own, and two
continuations of turns of agent and environment, of random tokens. With `--data` pairs are the first
of a file that `train dpo` reads, and `--models` are folders.

Variants:
    trl: TRL's DPOTrainer with its reference model (with adapters: they are switched off instead).
    trl-precomputed: the same with `precompute_ref_log_probs`.
    padded: ours with `share_prefix="off"`.
    ours: ours as it is by default; reference scores are always computed anew.

TRL counts observations in its loss. So that all variants minimise the same loss, it is given tokens
in place of texts, and its collator, a public argument, completion masks without observations;
everything else of TRL is as released, except that options are equal on both sides: precision,
optimizer (AdamW), learning rate, one pair per pass, all pairs in each optimizer step, and no
truncation.

Columns:
    peak: largest resident memory from before the model is loaded until training ends, over the
        resident memory when all is imported, in MB; on CUDA, the largest allocated memory.
    training: the same from when the policy is loaded: the loaded policy and all that is made to
        train it, without what loading took for a while. Weights that the loader left mapped from
        the file are copied before, so that they count, and the rest of the file does not.
    tok/CPU s: tokens of both sides of all pairs, times epochs, over the CPU time from the loaded
        policy to the trained one: the reference's scores, or its model, are part of that. On CUDA
        and in the column tok/s, over wall time.
    loss: of the last step; diff: largest relative difference to "trl" over all steps.
    rate: operations of the matrix products that training both sides one by one takes (forward
        and backward, without the reference), over the time of the median step after the first, as
        a part of the rate of a large product of bf16 matrices in the same process; on CUDA only.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eto_gym.benchmarks.random_models import ARCHITECTURES, END, build, operations
from eto_gym.errors import DataError
from eto_gym.files import write_json

VARIANTS = ("trl", "trl-precomputed", "padded", "ours")
METHODS = ("full", "lora", "qlora")


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement."""

    architecture: str
    method: str
    variant: str
    prompt: int
    continuation: int
    pairs: int
    epochs: int
    learning_rate: float
    checkpointing: bool
    offload: bool
    precision: str
    seed: int
    data: str = ""


class Pair(NamedTuple):
    """Both sides of a pair: the tokens of each, and which of them are trained."""

    chosen: tuple[list[int], list[bool]]
    rejected: tuple[list[int], list[bool]]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and write it as JSON with `--json`."""
    args = read_options(argv)
    if args.worker:
        folder, job = json.loads(args.worker)
        print(json.dumps(measure_alone(Path(folder), Job(**job))))
        return

    import torch

    cuda = torch.cuda.is_available()
    models = args.models or (["1.5B", "7B"] if cuda else ["6x256"])
    machine = {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "command": " ".join(["python -m eto_gym.benchmarks.training", *(argv or sys.argv[1:])]),
    }
    print(json.dumps(machine))
    args.precision = args.precision or ("auto" if cuda else "fp32")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in models:
            if args.data:
                folder = Path(name)
            else:
                folder = Path(scratch) / name
                build(folder, name, args.seed)
            for method in args.methods:
                for prompt in [0] if args.data else args.prompts:
                    show(group := [run(folder, job) for job in jobs(args, name, method, prompt)])
                    rows += group
                    if args.json:
                        write_json(args.json, {"machine": machine, "rows": rows})


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and refuse models that do not go with what is trained on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", help=f"{', '.join(ARCHITECTURES)}, or folders; default: by device"
    )
    parser.add_argument("--data", type=Path, help="file of pairs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["full"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--prompts", type=int, nargs="+", default=[500, 1500, 3000])
    parser.add_argument("--continuation", type=int, default=500, help="tokens of a side")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3, help="as in the paper")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--offload", action="store_true", help="ours: activations to the host")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="default: bf16 on CUDA, else fp32"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in args.models or ():
        if args.data and not Path(name).is_dir():
            parser.error(f"{name} is no folder of a model, which --data wants")
        if not args.data and name not in ARCHITECTURES:
            parser.error(f"{name} is none of {', '.join(ARCHITECTURES)}; folders go with --data")
    if args.data and not args.models:
        parser.error("--data wants the folder of a model as --models")
    return args


def jobs(args: argparse.Namespace, name: str, method: str, prompt: int) -> Iterator[Job]:
    """Yield one measurement per variant, of a model by a method behind prompts of one length."""
    for variant in args.variants:
        yield Job(
            architecture=name,
            method=method,
            variant=variant,
            prompt=prompt,
            continuation=0 if args.data else args.continuation,
            pairs=args.pairs,
            epochs=args.epochs,
            learning_rate=args.learning_rate,
            checkpointing=args.checkpointing,
            offload=args.offload and variant in ("padded", "ours"),
            precision=args.precision,
            seed=args.seed,
            data=str(args.data or ""),
        )


def run(folder: Path, job: Job) -> dict[str, Any]:
    """Measure one variant in a process of its own."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "eto_gym.benchmarks.training",
            "--worker",
            json.dumps([str(folder), dataclasses.asdict(job)]),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    row: dict[str, Any] = dataclasses.asdict(job)
    if done.returncode:
        # Out of memory is a result too.
        return {**row, "error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return {**row, **json.loads(done.stdout.splitlines()[-1])}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the variants of one setting, each beside the ratios of ours to it."""
    first = rows[0]
    what = first["data"] or f"prompt {first['prompt']}, continuation {first['continuation']}"
    print(
        f"\n{first['architecture']} {first['method']}, {what}, {first['pairs']} pairs, "
        f"{first['epochs']} epochs{', recomputing activations' * first['checkpointing']}, "
        f"{first['precision']}"
    )
    print(
        f"{'variant':<16}{'peak MB':>9}{'training':>9}{'CPU s':>8}{'wall s':>8}{'tok/CPU s':>10}"
        f"{'tok/s':>8}{'loss':>10}{'diff':>9}{'rate':>6}{'ours: peak':>12}{'tok/CPU s':>10}"
    )
    ours = next((row for row in rows if row["variant"] == "ours" and "error" not in row), None)
    stock = next((row for row in rows if row["variant"] == "trl" and "error" not in row), None)
    for row in rows:
        if "error" in row:
            print(f"{row['variant']:<16} {row['error']}")
            continue
        if stock:
            row["difference"] = max(
                abs(a - b) / abs(b) for a, b in zip(row["losses"], stock["losses"], strict=True)
            )
        ratios = ""
        if ours:
            row["ours_peak"] = ours["peak_mb"] / row["peak_mb"]
            row["ours_speed"] = ours["tokens_per_cpu_s"] / row["tokens_per_cpu_s"]
            ratios = f"{row['ours_peak']:>11.2f}x{row['ours_speed']:>9.2f}x"
        rate = f"{row['rate']:.2f}" if row["rate"] is not None else "-"
        difference = f"{row['difference']:.1e}" if "difference" in row else "-"
        print(
            f"{row['variant']:<16}{row['peak_mb']:>9.0f}{row['training_mb']:>9.0f}"
            f"{row['cpu_s']:>8.1f}{row['wall_s']:>8.1f}{row['tokens_per_cpu_s']:>10.0f}"
            f"{row['tokens_per_s']:>8.0f}{row['losses'][-1]:>10.6f}{difference:>9}{rate:>6}{ratios}",
            flush=True,
        )


# --- what is trained, on what ------------------------------------------------------------------


def make_pairs(job: Job, vocabulary: int) -> list[Pair]:
    """Return pairs of random tokens.

    Of a continuation, 40% is the agent's: turns of 20 tokens, and observations of 30. The lower
    half of the vocabulary is the agent's, the upper half the environment's.
    """
    rng = random.Random(job.seed)
    half = vocabulary // 2

    def continuation() -> list[int]:
        tokens: list[int] = []
        while len(tokens) < job.continuation - 1:
            tokens += [rng.randrange(2, half) for _ in range(20)]
            tokens += [rng.randrange(half, vocabulary) for _ in range(30)]
        return [*tokens[: job.continuation - 1], END]

    pairs = []
    for _ in range(job.pairs):
        prompt = [rng.randrange(2, vocabulary) for _ in range(job.prompt)]
        sides = [continuation(), continuation()]
        pairs.append(
            Pair(
                *(
                    (prompt + side, [False] * len(prompt) + [token < half for token in side])
                    for side in sides
                )
            )
        )
    return pairs


def stored_pairs(path: Path, tokenizer: Any, count: int) -> list[Pair]:
    """Return the first pairs of a file, as the model's tokens.

    Raises:
        DataError: One does not hold both sides as one conversation each.
    """
    from eto_gym.trainers.data.encoding import encode_pairs
    from eto_gym.trainers.model.models import default_codec
    from eto_gym.trajectories.formats import read_pairs

    stored, _ = read_pairs(path, strict=True)
    rows, _ = encode_pairs(default_codec(tokenizer), stored[:count], max_length=1 << 20)
    if any(row.more_chosen or row.more_rejected or not all(row.sides) for row in rows):
        raise DataError(f"{path} holds pairs of bounded histories, or sides that are missing")
    return [Pair((r.chosen.ids, r.chosen.mask), (r.rejected.ids, r.rejected.mask)) for r in rows]


# --- one process -------------------------------------------------------------------------------


def measure(folder: Path, job: Job, *, load: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Train one variant, and return what it took.

    Args:
        folder: Folder of the model, or of its tokenizer alone where `load` is given.
        job: What is trained, and how.
        load: Returns the model for the settings of the training; by default it is read from disk.
    """
    from transformers import AutoTokenizer

    from eto_gym.benchmarks.meter import Meter
    from eto_gym.trainers.data.encoding import TokenPair, TokenRow
    from eto_gym.trainers.methods.dpo import TrajectoryDPOTrainer
    from eto_gym.trainers.model.models import load_for_training, quiet_libraries
    from eto_gym.trainers.run.callbacks import set_callbacks

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if job.data:
        pairs = stored_pairs(Path(job.data), tokenizer, job.pairs)
    else:
        pairs = make_pairs(job, tokenizer.vocab_size)
    settings = settings_of(job, pairs)
    if job.method != "full":
        import bitsandbytes  # noqa: F401
        import peft  # noqa: F401
    with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
        meter = Meter()
        model = load(settings) if load else load_for_training(folder, settings)
        meter.loaded(model)
        if job.variant in ("padded", "ours"):
            trainer: Any = TrajectoryDPOTrainer(
                settings,
                model=model,
                rows=[TokenPair(TokenRow(*one), TokenRow(*other)) for one, other in pairs],
                tokenizer=tokenizer,
                workspace=Path(scratch),
            )
        else:
            trainer = stock(job, settings, model, tokenizer, pairs, Path(scratch))
        trainer.args.save_strategy = "no"
        set_callbacks(trainer, meter)
        trainer.train()
        tokens = job.epochs * sum(len(ids) for pair in pairs for ids, _ in pair)
        results = meter.results(tokens=tokens)
    found = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokens,
        **results,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    if job.data:
        return found
    length = job.prompt + job.continuation
    work = operations(
        job.architecture,
        tokens,
        length=length,
        trained=0.4 * job.continuation / length,
        whole=job.method == "full",
    )
    return {**found, "operations_per_s": work / tokens * results["step_tokens_per_s"]}


def settings_of(job: Job, pairs: Sequence[Pair]) -> Any:
    """Return how all variants are trained on these pairs, one in each pass, all in each step."""
    import torch

    from eto_gym.trainers import DPOSettings

    paged = job.method == "qlora" and torch.cuda.is_available()
    return DPOSettings(
        learning_rate=job.learning_rate,
        epochs=job.epochs,
        batch_size=len(pairs),
        micro_batch_size=1,
        max_length=max(len(ids) for pair in pairs for ids, _ in pair),
        warmup_ratio=0,
        optimizer="paged_adamw8bit" if paged else "adamw",
        gradient_checkpointing=job.checkpointing,
        activation_offload=job.offload,
        lora_r=0 if job.method == "full" else 16,
        qlora=job.method == "qlora",
        seed=job.seed,
        precision=job.precision,
        reference_cache="none",
        share_prefix="on" if job.variant == "ours" else "off",
    )


def measure_alone(folder: Path, job: Job) -> dict[str, Any]:
    """Measure one variant, and how much of the GPU's rate it reached; "rate" is None on a CPU."""
    import torch

    from eto_gym.benchmarks.meter import matrix_rate

    results = measure(folder, job)
    known = torch.cuda.is_available() and "operations_per_s" in results
    rate = results["operations_per_s"] / matrix_rate() if known else None
    return {**results, "rate": rate}


def stock(
    job: Job, settings: Any, model: Any, tokenizer: Any, pairs: Sequence[Pair], workspace: Path
) -> Any:
    """Return TRL's trainer, which gets tokens, with a collator that masks observations."""
    import torch
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    from eto_gym.trainers.model.models import lora_config, uses_bf16

    class AgentsTokens(DataCollatorForPreference):
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch: dict[str, Any] = super().torch_call(examples)
            masks = [one["chosen_mask"] for one in examples]
            masks += [one["rejected_mask"] for one in examples]
            longest = batch["input_ids"].shape[1]
            batch["completion_mask"] = torch.tensor(
                [mask + [0] * (longest - len(mask)) for mask in masks]
            )
            return batch

    class OfTokens(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    data = []
    for chosen, rejected in pairs:
        start = min(chosen[1].index(True), rejected[1].index(True))
        data.append(
            {
                "prompt_ids": chosen[0][:start],
                "chosen_ids": chosen[0][start:],
                "rejected_ids": rejected[0][start:],
                "chosen_mask": [int(trained) for trained in chosen[1]],
                "rejected_mask": [int(trained) for trained in rejected[1]],
            }
        )
    # A model that was made in memory cannot be loaded again as its own reference.
    folder = model.config._name_or_path
    again = settings.lora_r or (folder and Path(folder).is_dir())
    precomputed = job.variant == "trl-precomputed"
    return OfTokens(
        model=model,
        ref_model=None if again or precomputed else copy.deepcopy(model),
        args=DPOConfig(
            output_dir=str(workspace),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=len(pairs),
            num_train_epochs=job.epochs,
            learning_rate=job.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            optim="paged_adamw_8bit" if settings.optimizer == "paged_adamw8bit" else "adamw_torch",
            beta=settings.beta,
            max_length=None,
            bf16=uses_bf16(settings),
            gradient_checkpointing=job.checkpointing,
            precompute_ref_log_probs=precomputed,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            seed=job.seed,
            use_cpu=not torch.cuda.is_available(),
        ),
        data_collator=AgentsTokens(pad_token_id=tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        peft_config=lora_config(settings) if settings.lora_r else None,
    )


if __name__ == "__main__":
    main()
