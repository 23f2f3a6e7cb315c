"""Where a training starts and ends: the arguments that every `run_...` function takes by keyword.

Each function takes them as `**arguments`, typed by one of the dicts here, and makes a job of them,
which refuses names that it does not know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict

from eto_gym.trainers.data.encoding import Codec
from eto_gym.trainers.model.models import (
    check_output,
    default_codec,
    load_tokenizer,
    quiet_libraries,
)
from eto_gym.trainers.settings.base import TrainSettings

if TYPE_CHECKING:
    from eto_gym.trainers.run.callbacks import Evaluate


@dataclass(frozen=True)
class Watch:
    """How a training run is watched.

    Attributes:
        progress: Show a bar on stderr, where that is a terminal.
        on_evaluate: Scores the model during training, higher is better; the best weights are
            written in the end, and they may be those that training started from.
        every: Optimizer steps between scores; 0: each epoch.
        patience: Stop after this many scores without a new best; 0: never.
    """

    progress: bool = True
    on_evaluate: Evaluate | None = None
    every: int = 0
    patience: int = 0


class RunArguments(TypedDict, total=False):
    """Keyword arguments of every training.

    Attributes:
        model: Folder or hub name of a causal language model, or folder of an adapter.
        output: Folder of the new model: safetensors, tokenizer, and the report as `training.json`.
            It appears only when it is complete.
        resume: Go on from the last whole checkpoint of a killed run; a finished run is not
            repeated. By default a run starts anew.
        watch: Progress, scores during training, early stopping; by default a progress bar only.
    """

    model: Required[str | Path]
    output: Required[str | Path]
    resume: bool
    watch: Watch | None


class DataArguments(RunArguments, total=False):
    """Those of a training on data.

    Attributes:
        codec: Tokenises conversations; by default the model's own chat template does.
    """

    codec: Codec | None


class PlayArguments(RunArguments, total=False):
    """Those of a training whose model plays.

    Attributes:
        plan: What the play depends on, JSON-serialisable: a run with another plan is not resumed.
    """

    plan: Any


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, as `RunArguments` describes it."""

    model: str | Path
    output: str | Path
    resume: bool = False
    watch: Watch | None = field(default_factory=Watch)

    @property
    def folder(self) -> Path:
        """The output."""
        return Path(self.output)

    @property
    def watched(self) -> Watch:
        """How the run is watched, where the caller leaves it open too."""
        return self.watch or Watch()


@dataclass(frozen=True, kw_only=True)
class DataJob(Job):
    """A training on data, as `DataArguments` describes it."""

    codec: Codec | None = None


@dataclass(frozen=True, kw_only=True)
class PlayJob(Job):
    """A training whose model plays, as `PlayArguments` describes it."""

    plan: Any = None


@contextlib.contextmanager
def prepared(settings: TrainSettings, job: DataJob | PlayJob) -> Iterator[tuple[Any, Codec]]:
    """Check the output, silence the libraries, and yield the model's tokenizer with its codec.

    Raises:
        DataError: There is something else at the output, or no chat template where one is named.
    """
    check_output(job.folder)
    with quiet_libraries():
        tokenizer = load_tokenizer(job.model, settings.chat_template)
        codec = job.codec if isinstance(job, DataJob) else None
        yield tokenizer, codec or default_codec(tokenizer)
