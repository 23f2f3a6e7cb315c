"""What the loops are: stages that demonstrate, fine-tune, explore, pair, prefer, evaluate.

A loop has these stages in one run folder, and puts them in order. Every stage is done once, however
often the loop is started, and is done again only where its settings or its inputs have changed.

Under `accelerate launch` each process runs the same loop, stage by stage: they train together, play
each their part of the episodes, and leave the rest to the first.
"""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

from eto_gym.agents.models.template import DATE_VARIABLE, run_date
from eto_gym.files import owned, write_json
from eto_gym.trainers.loops.data_stages import DataStages
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.report import CONTROL, make_report, write_report
from eto_gym.trainers.loops.run_folder import FINISHED, Stage, sweep
from eto_gym.trainers.loops.stage_data import NothingToLearn
from eto_gym.trainers.loops.train_stages import TrainStages
from eto_gym.trainers.settings.methods import SFTSettings
from eto_gym.trainers.settings.world import ControlSettings, ExpertSettings, WorldSettings

S = TypeVar("S", bound=WorldSettings)

_LIMITS = ("max_new_tokens", "max_context", "play_dtype")


class Demonstrated(NamedTuple):
    """The stages with which a method begins that has experts."""

    start: Stage
    experts: Stage
    sft: Stage


class Loop(ABC, Generic[S]):
    """One run of a method in a run folder; a method puts its stages in order.

    Attributes:
        settings: What to run, with the run's seed added to the seeds of the parts, and the text of
            a chat template in place of its file.
        play: The stages that play.
        data: The stages that say what is learnt from.
        train: The stages that train.
    """

    method: ClassVar[str]
    """Name of the command, recorded in the report."""
    reference: ClassVar[str | None] = "SFT"
    """Label of the policy that the others are compared with; None: the one that was there first."""

    def __init__(self, settings: S, out: str | Path) -> None:
        """Prepare a run; processes that a launcher started join here.

        Args:
            settings: What to run.
            out: The run folder; one that holds finished stages of the same settings is continued.
        """
        self.play = PlayStages(settings, out)
        self.settings = cast(S, self.play.settings)
        self.data = DataStages(self.play)
        self.train = TrainStages(self.play)

    def run(self) -> dict[str, Any]:
        """Run all stages and return the report, which is also written to the run folder.

        Where what was played holds nothing to learn from, the run ends there: the report says so
        under "ended", beside what was evaluated until then.

        Raises:
            EtoGymError: A stage cannot be done, or another run is at work in the folder.
        """
        with contextlib.ExitStack() as held:
            self.play.processes.first(lambda: held.enter_context(self._owned()))
            return self._run()

    @contextlib.contextmanager
    def _owned(self) -> Iterator[None]:
        """Keep other runs out of the run folder."""
        folder = self.play.folder.path
        folder.mkdir(parents=True, exist_ok=True)
        with owned(folder):
            yield

    def _run(self) -> dict[str, Any]:
        play = self.play
        play.limits = play.processes.first(self._write_config)
        play.evaluated = []
        play.open()
        ended = None
        with self._dated(), contextlib.closing(play):
            try:
                self._run_stages()
            except NothingToLearn as err:
                if not play.evaluated:
                    raise
                ended = str(err)
            return play.processes.first(lambda: self._report(ended))

    @contextlib.contextmanager
    def _dated(self) -> Iterator[None]:
        """Give templates that read the clock one date, whenever the run is started again."""
        path = self.play.folder.path / "date.json"

        def first() -> str:
            try:
                kept = json.loads(path.read_bytes())["date"]
            except (OSError, ValueError, RecursionError, KeyError, TypeError):
                kept = None
            if not isinstance(kept, str):
                kept = run_date()
                write_json(path, {"date": kept})
            return kept

        before = os.environ.get(DATE_VARIABLE)
        os.environ[DATE_VARIABLE] = self.play.processes.first(first)
        try:
            yield
        finally:
            del os.environ[DATE_VARIABLE]
            if before is not None:
                os.environ[DATE_VARIABLE] = before

    def _write_config(self) -> dict[str, Any]:
        """Keep the settings; return the limits of replies in which they differ from the first ones.

        The folder's first limits are no part of a stage's key, as in the versions before. Other
        ones are, so that what was played under the first is not taken for played under these.
        """
        path = self.play.folder.path / "config.json"
        sweep(path.parent)
        given = self.play.given.to_json()
        try:
            before = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            before = None
        before = before if isinstance(before, dict) else {}
        first = before.get("first_limits")
        first = first if isinstance(first, dict) else before
        # Versions before had no play_dtype: what they played was as it was saved.
        absent = {**given, "play_dtype": "auto"} if before else given
        first = {name: first.get(name, absent[name]) for name in _LIMITS}
        other = {name: given[name] for name in _LIMITS if given[name] != first[name]}
        kept = {"first_limits": first} if other or "first_limits" in before else {}
        write_json(path, {**given, **kept})
        return other

    @abstractmethod
    def _run_stages(self) -> None:
        """Run the method's stages in order."""

    def _demonstrate(self, source: ExpertSettings, settings: SFTSettings) -> Demonstrated:
        """Fine-tune the start model on the experts, as most methods begin; evaluate both.

        The start model is left out where `source` says so.
        """
        start = self.train.start_model(evaluated=source.eval_start)
        experts = self.data.experts(source)
        sft = self.train.sft("sft", settings, start, experts)
        self.play.evaluate("SFT", "sft", sft)
        return Demonstrated(start, experts, sft)

    def _control(
        self, control: ControlSettings, settings: SFTSettings, first: Demonstrated
    ) -> None:
        """Continue SFT on the demonstrations alone, where a control is wanted, and evaluate it."""
        if control.control:
            longer = control.control_of(settings)
            stage = self.train.sft("control", longer, first.sft, first.experts)
            self.play.evaluate(CONTROL, "control", stage)

    def _report(self, ended: str | None) -> dict[str, Any]:
        """Make the report and write it; the marker that all is done comes last."""
        folder, evaluated = self.play.folder, self.play.evaluated
        labels = [row.label for row in evaluated]
        report = make_report(
            self.settings,
            method=self.method,
            reference=self.reference if self.reference in labels else labels[0],
            policies=evaluated,
            stages=folder.stages,
            ended=ended,
        )
        write_report(folder.path, report)
        if ended is None:
            write_json(folder.path / FINISHED, {"stages": [stage.key for stage in folder.stages]})
        return report
