"""Corrections: at a step of the agent's own failure, the expert's reply against the agent's.

Both replies answer the same conversation, one that the agent itself came to. So a pair teaches
neither what to do after another observation nor the luck of a search, as pairs of whole episodes
do from the first difference on, and it shows the way out of loops, where no expert's own episode
ever comes.

The idea of asking the expert in the learner's own states is DAgger's (Ross et al., AISTATS 2011,
https://arxiv.org/abs/1011.0686); here its answer is preferred to the agent's, and not only copied.
"""

from __future__ import annotations

from collections.abc import Iterable

from eto_gym.conversation import ConversationEnv
from eto_gym.env import text_env
from eto_gym.expert import Adviser, Reply
from eto_gym.prompt import Message
from eto_gym.trainers.data.first_error import replies_of
from eto_gym.trainers.data.pairing import PairingReport
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair


def correct_failures(
    env: ConversationEnv, agent: Iterable[Trajectory], settings: PairingSettings
) -> tuple[list[PreferencePair], PairingReport]:
    """Repeat the agent's failures; pair each reply with the expert's where the actions differ.

    An expert that is a `Coach` is told of every step. Another one is made anew where the agent did
    otherwise than it said; one that cannot go on from the agent's state gives up, and that step is
    counted and left out. Of one failure each pair of actions counts once, since an agent in
    a loop makes one and the same mistake many times.

    Args:
        env: Plays the tasks as they were played, with the same history.
        agent: The agent's trajectories; successes and errors are counted and left out.
        settings: `max_pairs_per_task` limits the pairs of a task to its first ones.

    Returns:
        The pairs, in the order of failures and steps, and the report. Besides the reasons of other
        pairings its `skipped` has "success", "not_repeated" (the environment now answers
        otherwise, or there are fewer replies than steps), "no_advice" (steps at which the expert
        gave up), and "same_action"; "nothing_trained" are steps whose reply is not marked for
        training. The prompt of a pair is what was read at its step, so it is whole whatever the
        history.
    """
    report = PairingReport()
    pairs: list[PreferencePair] = []
    per_task: dict[str, int] = {}
    for trajectory in agent:
        report.trajectories += 1
        if not trajectory.scored or trajectory.success:
            report.skipped["success" if trajectory.success else "agent_error"] += 1
            continue
        if trajectory.history != env.history:
            report.skipped["different_history"] += 1
            continue
        for pair in _of_failure(env, trajectory, report):
            count = per_task.get(pair.task_id, 0)
            if settings.max_pairs_per_task is not None and count >= settings.max_pairs_per_task:
                report.skipped["over_task_limit"] += 1
                continue
            per_task[pair.task_id] = count + 1
            pairs.append(pair)
    report.pairs = report.expert_chosen = len(pairs)
    return pairs, report


def _of_failure(
    env: ConversationEnv, failure: Trajectory, report: PairingReport
) -> list[PreferencePair]:
    """Return the corrections of one failure, in the order of its steps."""
    replies = replies_of(failure)
    if replies is None:
        report.skipped["not_repeated"] += 1
        return []
    _, info = env.reset(options={"task": failure.task_id})
    adviser = Adviser(text_env(env).make_expert)
    adviser.observe(None, env.conversation[-1].content)
    pairs: list[PreferencePair] = []
    known: set[tuple[str, str | None]] = set()
    skipped = dict.fromkeys(("no_advice", "same_action", "duplicate", "nothing_trained"), 0)
    for number, (reply, step) in enumerate(zip(replies, failure.steps, strict=True)):
        prompt = tuple(Message(m.role, m.content) for m in env.prompt)
        advice = adviser.advise(info)
        if not reply.train:
            skipped["nothing_trained"] += 1
        elif advice is None:
            skipped["no_advice"] += 1
        elif advice.action == step.action:
            skipped["same_action"] += 1
        elif (advice.action, step.action) in known:
            skipped["duplicate"] += 1
        else:
            known.add((advice.action, step.action))
            pairs.append(_pair(failure, number, prompt, advice, reply.content))
        _, _, terminated, truncated, info = env.step(reply.content)
        if env.steps[-1].observation != step.observation:
            report.skipped["not_repeated"] += 1
            return []
        adviser.observe(step.action, step.observation)
        if terminated or truncated:
            break
    report.skipped.update({reason: count for reason, count in skipped.items() if count})
    return pairs


def _pair(
    failure: Trajectory, step: int, prompt: tuple[Message, ...], advice: Reply, reply: str
) -> PreferencePair:
    return PreferencePair(
        task_id=failure.task_id,
        prompt=prompt,
        chosen=(Message("assistant", str(advice), train=True),),
        rejected=(Message("assistant", reply, train=True),),
        info={
            "contrast": "correction",
            "chosen_policy": "expert",
            "rejected_policy": failure.policy,
            "rejected_reward": failure.reward,
            "rejected_sample": failure.sample,
            "step": step,
        },
    )
