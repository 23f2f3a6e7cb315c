"""Reading replies, and the conversation around an episode."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym import (
    EpisodeResult,
    EtoGymError,
    Message,
    Reply,
    UnknownNameError,
    get_state,
    set_state,
)
from eto_gym.conversation import (
    FORMAT_ERROR,
    ConversationEnv,
    Dialogue,
    parse_reply,
    prompt_messages,
)
from eto_gym.prompt import Prompt
from eto_gym.reasoning import split_reasoning
from tests.growth import check_linear
from tests.plain_replies import read_plainly
from tests.toy import CorridorEnv, make_corridor


@pytest.mark.parametrize(
    ("text", "thought", "action"),
    [
        ("Thought: a\nAction: go", "a", "go"),
        ("Action: go", "", "go"),
        ("thought: a\naction: go", "a", "go"),
        ("Thought: a Action: go to fridge 1", "a", "go to fridge 1"),
        ("Thought: a\n\nAction:\ngo", "a", "go"),
        ("Thought: a\nAction: go\nObservation: b\nAction: open", "a", "go"),
        ("**Thought:** a\n**Action:** go", "a", "go"),
        ("Thought: a\n**Action**: go", "a", "go"),
        ("- Action: go", "", "go"),
        ("Thought: a\nAction: `go to desk 1`", "a", "go to desk 1"),
        ('Thought: a\nAction: "go".', "a", "go"),
        ("Thought: a\r\nAction: go\r\n", "a", "go"),
        ("Thought: a\nAction:\n```\ngo\n```", "a", "go"),
        ("Thought: a\nAction:click[buy now]", "a", "click[buy now]"),
        ("I need it.\nAction : search[red. shoe]", "I need it.", "search[red. shoe]"),
        ("Thought: the next\naction is clear\nAction: go", "the next\naction is clear", "go"),
        ("Thought: a\nAction: put mug 1 in/on desk 1", "a", "put mug 1 in/on desk 1"),
        ("Thought: a\nAction:go", "a", "go"),
        ("Thought：a\nAction：go", "a", "go"),
        ("Thought: a\nAction: \nThought：b\nAction：go", "a\nAction: \nThought：b", "go"),
        ("a, Action ：go", "a,", "go"),
    ],
)
def test_parse_what_a_person_would_call_right(text: str, thought: str, action: str) -> None:
    assert parse_reply(text) == Reply(thought, action)


@pytest.mark.parametrize(
    "text",
    ["", "go", "Thought: a", "Action:", "Action: \n", "Thought: a\nAction:\nObservation: b", "```"],
)
def test_parse_finds_no_action(text: str) -> None:
    assert parse_reply(text) is None


@pytest.mark.parametrize(
    ("text", "thought", "action"),
    [
        ("<think>\nAction: no\n</think>\nThought: t\nAction: go", "t", "go"),
        ("Action: no\n</think>\n\nAction: go", "", "go"),  # the template has opened the block
        ("<think>Action: a</think>Action: b<think>c</think>Action: go", "", "go"),
        ("Thought: t\nAction: go\n<think>Action: no", "t", "go"),
        ("[THINK]Action: no[/THINK]Action: go", "", "go"),
        ("◁think▷Action: no◁/think▷Action: go", "", "go"),
        (
            "<|channel|>analysis<|message|>Action: no<|end|><|start|>assistant"
            "<|channel|>final<|message|>Action: go",
            "",
            "go",
        ),
        (
            "I think: Thought: t\nAction: search[think tank]",
            "I think: Thought: t",
            "search[think tank]",
        ),
    ],
)
def test_an_action_in_a_reasoning_block_is_none(text: str, thought: str, action: str) -> None:
    assert parse_reply(text) == Reply(thought, action)


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nAction: open fridge 1\nThought: t\nAction: go to desk 1",
        "Action: go\n</think>",
        "<think>a</think>\n<think>Action: go",
        "<|channel|>analysis<|message|>Action: go",
    ],
)
def test_a_reply_that_is_all_reasoning_holds_no_action(text: str) -> None:
    assert parse_reply(text) is None


@given(st.lists(st.sampled_from(["<think>", "</think>", "[THINK]", "Action: go\n", "a "])))
def test_the_parts_of_a_reply_make_up_the_whole(parts: list[str]) -> None:
    text = "".join(parts)
    reasoning, spoken, cut = split_reasoning(text)
    assert len(reasoning) + len(spoken) == len(text)
    assert sorted(reasoning + spoken) == sorted(text)
    assert not any(mark in spoken for mark in ("<think>", "</think>", "[THINK]"))
    assert cut == (max(text.rfind("<think>"), text.rfind("[THINK]")) > text.rfind("</think>"))


@given(st.text())
def test_parse_never_raises_and_never_returns_an_empty_action(text: str) -> None:
    reply = parse_reply(text)
    assert reply is None or (reply.action and reply.action == reply.action.strip())


PIECES = [
    *("Action:", "action", "ACTION：", "Thought:", "Observation:", "go to desk 1", "a", "\u0131"),
    *("\n", "\n", "\r\n", " ", "\t", "\u2028", "\u3000", "```", "`", '"', "'", "**", "*", "_", ">"),
    *("#", "-", ".", "..", ":", "：", "“", "”", "‘", "’", "[", "é"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@settings(max_examples=2000)
def test_parse_reads_what_plain_patterns_read(text: str) -> None:
    assert parse_reply(text) == read_plainly(text)


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join), st.data())
@settings(max_examples=100, deadline=None)
def test_any_repetition_is_read_in_linear_time(unit: str, data: st.DataObject) -> None:
    ends = st.sampled_from(["", "Action:", "\nAction:", "action", "x", "Thought: t\nAction: go"])
    head, tail = data.draw(ends), data.draw(ends)
    check_linear(
        parse_reply, lambda length: head + unit * (length // len(unit)) + tail, length=1_000
    )


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "\n",
            " ",
            "*",
            "`",
            '"',
            "'",
            "_",
            ".",
            ">",
            "-",
            "“",
            "```",
            "```\n",
            "Action:",
            "action",
        ),
        *("Action:\n", "Action: **\n", "Action:\n\n", "\nAction", "Action:\n```\n", "Thought:\n"),
        *("* \n", "action`", "\n**Action**\n", "<think>", "</think>", "<think></think>", "<", "日"),
    ],
)
@pytest.mark.parametrize("tail", ["", "Action:", "\nAction: go", "x"])
@pytest.mark.parametrize("head", ["", "Action:", "Action: x", "Thought: t"])
def test_no_reply_takes_more_than_linear_time(head: str, unit: str, tail: str) -> None:
    check_linear(
        parse_reply, lambda length: head + unit * (length // len(unit)) + tail, length=2_000
    )


def test_matching_quotes_come_off_to_any_depth_in_linear_time() -> None:
    def nested(length: int) -> str:
        return "Action: " + "'\"" * (length // 4) + "go" + "\"'" * (length // 4)

    assert parse_reply(nested(400)) == Reply("", "go")
    check_linear(parse_reply, nested, length=2_000)


words = st.text("abcdefgh 0123[]/,'é日", min_size=1).map(str.strip).filter(bool)
plain = words.filter(lambda text: not (text.startswith("'") or text.endswith("'")))

# All that stands before the mark that closes a reasoning block is reasoning.
tails = st.text().filter(lambda text: not split_reasoning(text).reasoning)


@given(thought=plain, action=plain, tail=tails)
def test_parse_reads_back_what_a_reply_writes(thought: str, action: str, tail: str) -> None:
    reply = Reply(thought, action)
    assert parse_reply(str(reply)) == reply
    assert parse_reply(f"{reply}\n{tail}") == reply, "what follows the action is ignored"


def test_prompt_styles() -> None:
    prompt = Prompt("Do it.", ("Task.", "Action: go", "Done."))
    assert prompt_messages(prompt, "none") == ()
    user, reply = prompt_messages(prompt, "instruction")
    assert user == Message("user", "Do it.")
    assert reply.role == "assistant"
    assert not reply.train
    assert "Action: go" in prompt_messages(prompt, "one-shot")[0].content
    with pytest.raises(UnknownNameError, match="one-shot"):
        prompt_messages(prompt, "oneshot")  # type: ignore[arg-type]


def test_conversation_grows_by_turns() -> None:
    env = ConversationEnv(make_corridor(), prompt_style="instruction")
    first, _ = env.reset(options={"task": 1})
    assert [m.role for m in env.conversation] == ["user", "assistant", "user"]
    assert env.conversation[-1].content == first
    text, *_ = env.step("Thought: on\nAction: go")
    assert text == "Observation: You are at door 1."
    _, reward, terminated, truncated, info = env.step("Thought: here\nAction: open")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert [m.train for m in env.conversation] == [False, False, False, True, False, True]
    assert env.conversation[-1].content == "Thought: here\nAction: open"
    assert [s.action for s in env.steps] == ["go", "open"]
    assert env.steps[-1].observation == "Well done."


@pytest.mark.parametrize("make", [make_corridor, CorridorEnv])
def test_a_step_before_reset_is_refused_and_leaves_nothing(make: Any) -> None:
    env = ConversationEnv(make(), prompt_style="none")
    for reply in ("no action", "Action: go"):
        with pytest.raises(ResetNeeded, match="before reset"):
            env.step(reply)
    with pytest.raises(ResetNeeded, match="before reset"):
        env.take(Reply("", "go"))
    assert [len(turns) for turns in (env.conversation, env.steps, env.prompt)] == [0, 0, 0]
    env.reset(seed=0)
    env.step("no action")
    assert len(env.steps) == 1


@pytest.mark.parametrize("action", ['"go"', "go.", "Action: go", "<think>go"])
def test_an_action_that_is_taken_is_played_as_it_is(action: str) -> None:
    env = ConversationEnv(make_corridor(), prompt_style="none")
    env.reset(options={"task": 1})
    env.take(Reply("why", action))
    assert [step.action for step in env.steps] == [action]
    assert env.conversation[1].content == str(Reply("why", action))
    restored = ConversationEnv(make_corridor(), prompt_style="none")
    set_state(restored, get_state(env))
    assert restored.conversation == env.conversation


def test_the_result_tells_what_the_episode_came_to() -> None:
    env = ConversationEnv(make_corridor(max_episode_steps=3), prompt_style="none")
    with pytest.raises(EtoGymError, match="before reset"):
        env.result()
    first, _ = env.reset(options={"task": 1})
    assert env.result() == EpisodeResult(0.0, False, 0.0, 0, None)
    env.step("Action: go")
    env.step("Action: open")
    assert env.result() == EpisodeResult(1.0, True, 1.0, 2, "terminated")
    assert env.chat_messages()[0] == {"role": "user", "content": first}
    ended = json.loads(json.dumps(get_state(env)))
    env.reset(options={"task": 1})
    for _ in range(3):
        env.step("Nothing that I know.")
    assert env.result() == EpisodeResult(0.0, False, 0.0, 3, "truncated")
    set_state(env, ended)
    assert env.result() == EpisodeResult(1.0, True, 1.0, 2, "terminated")


@pytest.mark.parametrize("at", ["reset", "step"])
def test_the_result_of_an_engine_that_failed_is_an_error(at: str) -> None:
    class Failing(CorridorEnv):
        def _info(self) -> dict[str, Any]:
            failed = at == "reset" or self.position > 0
            return {**super()._info(), **({"error": "environment"} if failed else {})}

    env = ConversationEnv(Failing(), prompt_style="none")
    env.reset(options={"task": 1})
    if at == "step":
        assert env.result().outcome is None
        env.step("Action: go")
    assert (env.result().outcome, env.result().success) == ("error", False)


def test_malformed_reply_costs_a_step_and_spares_the_engine() -> None:
    env = ConversationEnv(make_corridor(max_episode_steps=3), prompt_style="none")
    env.reset(options={"task": 2})
    text, reward, terminated, truncated, info = env.step("I would rather not.")
    assert text == f"Observation: {FORMAT_ERROR}"
    assert (reward, terminated, truncated, info["format_error"]) == (0.0, False, False, True)
    assert env.steps[-1].action is None
    _, _, _, _, info = env.step("Action: go")
    assert "format_error" not in info
    inner = env.unwrapped
    assert isinstance(inner, CorridorEnv)
    assert inner.position == 1
    *_, truncated, _ = env.step("")
    assert truncated, "malformed replies count against the step limit"


def test_a_reply_cut_in_its_reasoning_is_told_from_other_malformed_ones() -> None:
    env = ConversationEnv(make_corridor(), prompt_style="none")
    env.reset(options={"task": 2})
    *_, info = env.step("<think>Perhaps\nAction: go")
    assert (info["format_error"], info["cut_in_reasoning"]) == (True, True)
    *_, info = env.step("<think>Done.</think> Nothing.")
    assert "cut_in_reasoning" not in info


@given(st.lists(st.text() | st.sampled_from(["Action: go", "Action: open"]), max_size=12))
def test_any_reply_is_taken(replies: list[str]) -> None:
    env = ConversationEnv(make_corridor(), prompt_style="none")
    env.reset(seed=0)
    for reply in replies:
        *_, terminated, truncated, _ = env.step(reply)
        if terminated or truncated:
            break
    assert len(env.steps) == sum(m.train for m in env.conversation)


def test_snapshot_keeps_conversation_and_step_count() -> None:
    env = ConversationEnv(make_corridor(max_episode_steps=4), prompt_style="none")
    env.reset(options={"task": 3})
    env.step("Action: go")
    env.step("nothing to see")
    state = json.loads(json.dumps(get_state(env)))
    ends = []
    for _ in range(2):
        set_state(env, state)
        ends.append((env.step("Action: go"), env.step("Action: go"), env.conversation))
    assert ends[0] == ends[1]
    assert ends[0][1][3], "the step limit counts on from the snapshot"


@pytest.mark.parametrize("history", ["full", "state"])
def test_a_conversation_that_has_not_begun_can_be_put_back(history: str) -> None:
    env = ConversationEnv(make_corridor(), history=history)
    before = json.loads(json.dumps(env.get_wrapper_state()))
    env.reset(seed=0)
    env.step("Action: go")
    env.set_wrapper_state(before)
    assert (env.conversation, env.steps, env.prompt, env.states) == ((), (), (), ())
    with pytest.raises(ResetNeeded):
        env.step("Action: go")
    env.reset(seed=0)
    assert env.prompt == env.conversation


def test_a_long_episode_takes_linear_time_where_no_state_is_written() -> None:
    def play(replies: str) -> None:
        dialogue = Dialogue(Prompt("", ()), "none")
        dialogue.begin("", {}, None)
        for _ in replies:
            dialogue.complain()
        dialogue.set_state(dialogue.get_state(), None)

    check_linear(play, lambda length: "x" * length, 400)
