"""The wording side of a game file: how actions are typed and what the engine answers.

Both shapes of the official games are written: "put" (the games of the published scores) and "move"
(the later release). Every sentence here is one that the engine must emit to the letter.
"""

from __future__ import annotations

import json
from typing import Final

_SEEN = "[{o.indefinite + ' ' + o.name | inreceptacle(o:object, r:receptacle)}]"
_AT = "atlocation(a:agent, l:location) & receptacleatlocation(r:receptacle, l:location)"
_FALLEN = (
    "atlocation(a:agent, l:location) & objectatlocation(o:object, l:location) & "
    "receptacleatlocation(r:receptacle, l:location) & not_inreceptacle(o:object, r:receptacle)"
)
_ARRIVE = {"put": "{lend.name}", "move": "{r.name}"}
_PUT = {"put": "put {o} in/on {r}", "move": "move {o} to {r}"}
_PUT_ANSWER = {
    "put": "You put the {o.name} in/on the {r.name}.",
    "move": "You move the {o.name} to the {r.name}.",
}
_HELP = (
    ("look", "look around your current location"),
    ("inventory", "check your current inventory"),
    ("go to (receptacle)", "move to a receptacle"),
    ("open (receptacle)", "open a receptacle"),
    ("close (receptacle)", "close a receptacle"),
    ("take (object) from (receptacle)", "take an object from a receptacle"),
    ("move (object) to (receptacle)", "place an object in or on a receptacle"),
    ("examine (something)", "examine a receptacle or an object"),
    ("use (object)", "use an object"),
    ("heat (object) with (receptacle)", "heat an object using a receptacle"),
    ("clean (object) with (receptacle)", "clean an object using a receptacle"),
    ("cool (object) with (receptacle)", "cool an object using a receptacle"),
    ("slice (object) with (object)", "slice an object using a sharp object"),
)
# States of an examined object, the most specific first: (predicates, words).
_STATES: Final = (
    ("clean hot sliced", "hot and clean sliced"),
    ("clean cool sliced", "cool and clean sliced"),
    ("clean sliced", "clean sliced"),
    ("hot sliced", "hot sliced"),
    ("cool sliced", "cool sliced"),
    ("clean hot", "hot and clean"),
    ("clean cool", "cool and clean"),
    ("hot", "hot"),
    ("clean", "clean"),
    ("cool", "cold"),
)

Rules = dict[str, list[dict[str, str]]]


def grammar(task_text: str, variant: str) -> str:
    """Write the grammar of a game that states its task as `task_text`.

    Args:
        task_text: The sentence after "Your task is to: ".
        variant: "put" or "move".
    """
    shared: Rules = {
        "intro": [_say("-= Welcome to TextWorld, ALFRED! =-\n\n#look.feedback#\n\n#task#")],
        "task": [_say(f"Your task is to: {task_text}")],
        "GotoLocation.feedback": [
            _say(f"You arrive at {_ARRIVE[variant]}. #examineReceptacle.feedback#")
        ],
        "OpenObject.feedback": [_say("You open the {r.name}. #examineReceptacle.feedback#")],
        "CloseObject.feedback": [_say("You close the {r.name}.")],
        "PickupObject.feedback": [_say("You pick up the {o.name} from the {r.name}.")],
        "PutObject.feedback": [_say(_PUT_ANSWER[variant])],
        "inventory.feedback": [
            _say(
                "You are carrying: [{o.indefinite + ' ' + o.name | holds(a:agent, o:object)}].",
                "holdsany(a:agent)",
            ),
            _say("You are not carrying anything."),
        ],
        "examineReceptacle.feedback": [
            _say(
                "The {r.name} is open. In it, you see " + _SEEN + ".",
                "openable(r:receptacle) & opened(r:receptacle)",
            ),
            _say("The {r.name} is closed.", "openable(r:receptacle)"),
            _say("On the {r.name}, you see " + _SEEN + "."),
        ],
        "examineObject.feedback": _examine_object(),
    }
    blocks = [f'grammar :: """\n{_dump(shared)}\n""";']
    blocks += [
        _action(
            "GotoLocation", "go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]"
        ),
        _action("OpenObject", "open {r}"),
        _action("CloseObject", "close {r}"),
        _action("PickupObject", "take {o} from {r}"),
        _action("PutObject", _PUT[variant]),
        _action("inventory", "inventory"),
        _action("examineReceptacle", "examine {r}"),
        _action("examineObject", "examine {o}"),
        _action("ToggleObject", "use {o}", _toggle()),
        _action("HeatObject", "heat {o} with {r}", _using("HeatObject", "heat")),
        _action("CleanObject", "clean {o} with {r}", _using("CleanObject", "clean")),
        _action("CoolObject", "cool {o} with {r}", _using("CoolObject", "cool")),
        _action(
            "SliceObject",
            "slice {co} with {ko}",
            {"SliceObject.feedback": [_say("You sliced the {co.name} with the {ko.name}.")]},
        ),
        _action("look", "look", _look()),
    ]
    if variant == "move":
        blocks.append(_action("help", "help", {"help.feedback": [_say(_help())]}))
    return "\n\n".join(blocks) + "\n"


def _say(text: str, condition: str | None = None) -> dict[str, str]:
    return {"rhs": text} if condition is None else {"condition": condition, "rhs": text}


def _dump(rules: Rules) -> str:
    return json.dumps(rules, indent=1)


def _action(name: str, template: str, rules: Rules | None = None) -> str:
    lines = [f'template :: "{template}";', f'feedback :: "#{name}.feedback#";']
    if rules:
        lines.append(f'grammar :: """\n{_dump(rules)}\n""";')
    return f"action {name} {{\n" + "\n".join(lines) + "\n}"


def _examine_object() -> list[dict[str, str]]:
    inner = "[{o2.indefinite + ' ' + o2.name | inreceptacleobject(o2:object, o:object)}]"
    rules = [
        _say(
            "This is a normal {o.name}. In it, you see " + inner + ".",
            "isreceptacleobject(o:object)",
        )
    ]
    for states, words in _STATES:
        condition = " & ".join(f"is{state}(o:object)" for state in states.split())
        rules.append(_say(f"This is a {words} {{o.name}}.", condition))
    return [
        *rules,
        _say("This {o.name} is on.", "toggleable(o:object) & istoggled(o:object)"),
        _say("This {o.name} is off.", "toggleable(o:object) & not_istoggled(o:object)"),
        _say("This is a sliced {o.name}.", "sliceable(o:object) & issliced(o:object)"),
        _say("There's nothing special about {o.name}."),
    ]


def _toggle() -> Rules:
    return {
        "ToggleObject.feedback": [
            _say("You turn on the {o.name}.", "toggleable(o:object) & istoggled(o:object)"),
            _say("You turn off the {o.name}.", "toggleable(o:object)"),
            _say("You don't see any switch on the {o.name}."),
        ]
    }


def _using(name: str, verb: str) -> Rules:
    return {f"{name}.feedback": [_say(f"You {verb} the {{o.name}} using the {{r.name}}.")]}


def _look() -> Rules:
    return {
        "look.feedback": [
            _say("#look-variations#. Next to it, you see #list_objects_on_the_floor#.", _AT),
            _say(
                "You are in the middle of a room. Looking quickly around you, you see "
                "#list_appliances#."
            ),
        ],
        "look-variations": [_say("You are facing the [{r.name | " + _AT + "}]")],
        "list_objects_on_the_floor": [
            _say("[{#overview(o)# | " + _FALLEN + "}]", _FALLEN),
            _say("nothing"),
        ],
        "list_appliances": [
            _say(
                "[{#overview(r)# | receptacleatlocation(r:receptacle, l:location)}]",
                "receptacleatlocation(r:receptacle, l:location)",
            ),
            _say("nothing"),
        ],
        "overview(o)": [_say("{o.indefinite} {o.name}")],
        "overview(r)": [_say("{r.indefinite} {r.name or r.id}")],
        "list_empty": [_say("nothing")],
        "list_separator": [_say(", ")],
        "list_last_separator": [_say(", and ")],
    }


def _help() -> str:
    # The line of "move" is not aligned with the others in the original either.
    rows = "".join(
        f"  {f'{command}:':<{32 if command.startswith('move') else 34}}{use}\n"
        for command, use in _HELP
    )
    return f"\nAvailable commands:\n{rows}"
