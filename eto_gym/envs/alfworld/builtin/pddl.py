"""The planning side of a game file: the domain, and the problem of one task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from eto_gym.envs.alfworld.builtin.tasks import Spec, start
from eto_gym.envs.alfworld.builtin.world import (
    CAN_CONTAIN,
    CLEANABLE,
    COOLABLE,
    FIXED,
    HEATABLE,
    HOLLOW,
    SLICEABLE,
    TOGGLEABLE,
)

# The names of predicates, actions and their parameters are those that the grammar refers to.
_HERE = "(atLocation ?a ?l) (receptacleAtLocation ?r ?l)"
_OPEN = "(or (not (openable ?r)) (opened ?r))"
_ACTIONS: Final = {
    "look": ("?l - location", "(atLocation ?a ?l)", "(checked ?l)"),
    "inventory": ("", "", "(checked ?a)"),
    "help": ("", "", "(checked ?a)"),
    "examineReceptacle": (
        "?r - receptacle",
        "(exists (?l - location) (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l)))",
        "(checked ?r)",
    ),
    # The official domain names objects in reach too, but its engine never grants them.
    "examineObject": ("?o - object", "(holds ?a ?o)", "(checked ?o)"),
    "GotoLocation": (
        "?lStart - location ?lEnd - location ?r - receptacle",
        "(and (atLocation ?a ?lStart) (receptacleAtLocation ?r ?lEnd))",
        "(not (atLocation ?a ?lStart)) (atLocation ?a ?lEnd)",
    ),
    "OpenObject": (
        "?l - location ?r - receptacle",
        f"(and (openable ?r) {_HERE} (not (opened ?r)))",
        "(opened ?r) (checked ?r)",
    ),
    "CloseObject": (
        "?l - location ?r - receptacle",
        f"(and (openable ?r) {_HERE} (opened ?r))",
        "(not (opened ?r))",
    ),
    "PickupObject": (
        "?l - location ?o - object ?r - receptacle",
        f"(and (pickupable ?o) {_HERE} (inReceptacle ?o ?r) (not (holdsAny ?a)) {_OPEN})",
        "(not (inReceptacle ?o ?r)) (holds ?a ?o) (holdsAny ?a) (not (objectAtLocation ?o ?l))",
    ),
    "PutObject": (
        "?l - location ?o - object ?r - receptacle ?ot - otype ?rt - rtype",
        f"(and (holds ?a ?o) {_HERE} {_OPEN} (objectType ?o ?ot) (receptacleType ?r ?rt) "
        "(canContain ?rt ?ot))",
        "(inReceptacle ?o ?r) (objectAtLocation ?o ?l) (not (holds ?a ?o)) (not (holdsAny ?a))",
    ),
    "CleanObject": (
        "?l - location ?r - receptacle ?o - object",
        "(and (cleanable ?o) (or (receptacleType ?r SinkType) (receptacleType ?r SinkBasinType)) "
        f"{_HERE} (holds ?a ?o))",
        "(isClean ?o)",
    ),
    "HeatObject": (
        "?l - location ?r - receptacle ?o - object",
        f"(and (heatable ?o) (receptacleType ?r MicrowaveType) {_HERE} (holds ?a ?o))",
        "(isHot ?o) (not (isCool ?o))",
    ),
    "CoolObject": (
        "?l - location ?r - receptacle ?o - object",
        f"(and (coolable ?o) (receptacleType ?r FridgeType) {_HERE} (holds ?a ?o))",
        "(isCool ?o) (not (isHot ?o))",
    ),
    "ToggleObject": (
        "?l - location ?o - object ?r - receptacle",
        f"(and (toggleable ?o) {_HERE} (inReceptacle ?o ?r))",
        "(when (isOn ?o) (not (isOn ?o))) (when (not (isOn ?o)) (isOn ?o)) (isToggled ?o)",
    ),
    "SliceObject": (
        "?l - location ?co - object ?ko - object",
        "(and (sliceable ?co) (or (objectType ?ko KnifeType) (objectType ?ko ButterKnifeType)) "
        "(atLocation ?a ?l) (objectAtLocation ?co ?l) (holds ?a ?ko))",
        "(isSliced ?co)",
    ),
}
_FREE = {"look", "inventory", "help", "examineReceptacle", "examineObject"}
_COSTS = dict.fromkeys(("CleanObject", "HeatObject", "CoolObject"), 5) | {
    "ToggleObject": 5,
    "SliceObject": 5,
}
_PREDICATES: Final = """
    (atLocation ?a - agent ?l - location)
    (receptacleAtLocation ?r - receptacle ?l - location)
    (objectAtLocation ?o - object ?l - location)
    (openable ?r - receptacle)
    (opened ?r - receptacle)
    (inReceptacle ?o - object ?r - receptacle)
    (isReceptacleObject ?o - object)
    (inReceptacleObject ?inner - object ?outer - object)
    (checked ?x)
    (receptacleType ?r - receptacle ?t - rtype)
    (canContain ?rt - rtype ?ot - otype)
    (objectType ?o - object ?t - otype)
    (holds ?a - agent ?o - object)
    (holdsAny ?a - agent)
    (isClean ?o - object)
    (cleanable ?o - object)
    (isHot ?o - object)
    (heatable ?o - object)
    (isCool ?o - object)
    (coolable ?o - object)
    (pickupable ?o - object)
    (toggleable ?o - object)
    (isOn ?o - object)
    (isToggled ?o - object)
    (sliceable ?o - object)
    (isSliced ?o - object)"""
_PROPERTIES = {
    "isReceptacleObject": HOLLOW,
    "cleanable": CLEANABLE,
    "heatable": HEATABLE,
    "coolable": COOLABLE,
    "sliceable": SLICEABLE,
    "toggleable": TOGGLEABLE,
}
# Types that the domain names, whether a house has them or not.
_DOMAIN_OTYPES = {"Knife", "ButterKnife"}
_DOMAIN_RTYPES = {"Sink", "SinkBasin", "Microwave", "Fridge"}
_STATES = {
    "pick_clean_then_place_in_recep": ("cleanable", "isClean"),
    "pick_heat_then_place_in_recep": ("heatable", "isHot"),
    "pick_cool_then_place_in_recep": ("coolable", "isCool"),
}


def domain(grammar: str) -> str:
    """Write the domain for games of one action grammar ("put" or "move"; only move has help)."""
    actions = "\n".join(
        _action(name, *parts)
        for name, parts in _ACTIONS.items()
        if name != "help" or grammar == "move"
    )
    return f"""(define (domain alfred)
  (:requirements :adl :action-costs :typing)
  (:types agent location receptacle object rtype otype)
  (:predicates{_PREDICATES})
  (:functions (total-cost) - number)
{actions}
)
"""


def _action(name: str, parameters: str, precondition: str, effect: str) -> str:
    cost = "" if name in _FREE else f" (increase (total-cost) {_COSTS.get(name, 1)})"
    return f"""  (:action {name}
    :parameters ({" ".join(("?a - agent", parameters)).strip()})
    :precondition {precondition or "()"}
    :effect (and {effect}{cost}))"""


def problem(task: Spec) -> str:
    """Write the problem of a task: its objects, the start and the goal."""
    places = {place.id: place for place in task.house.receptacles}
    things = [
        (f"{kind}_bar_{index:02d}", kind, places[spot])
        for index, (kind, spot) in enumerate(start(task), start=1)
    ]
    rtypes = {place.type for place in places.values()}
    otypes = {kind for _, kind, _ in things}
    spots = {place.location for place in places.values()} | {"loc_bar_00"}
    objects = {
        "agent": {"agent1"},
        "object": {name for name, _, _ in things},
        "otype": {f"{kind}Type" for kind in otypes | _DOMAIN_OTYPES},
        "rtype": {f"{kind}Type" for kind in rtypes | _DOMAIN_RTYPES},
        "receptacle": set(places),
        "location": spots,
    }
    facts = ["atLocation agent1 loc_bar_00"]
    facts += [f"receptacleType {place.id} {place.type}Type" for place in places.values()]
    facts += [f"receptacleAtLocation {place.id} {place.location}" for place in places.values()]
    facts += [f"openable {place.id}" for place in places.values() if place.openable]
    facts += [f"objectType {name} {kind}Type" for name, kind, _ in things]
    facts += [f"pickupable {name}" for name, kind, _ in things if kind not in FIXED]
    for predicate, kinds in _PROPERTIES.items():
        facts += [f"{predicate} {name}" for name, kind, _ in things if kind in kinds]
    facts += [
        f"canContain {host}Type {kind}Type"
        for host in sorted(rtypes)
        for kind in sorted(otypes & CAN_CONTAIN.get(host, frozenset()))
    ]
    facts += [f"inReceptacle {name} {place.id}" for name, _, place in things]
    facts += [f"objectAtLocation {name} {place.location}" for name, _, place in things]
    declared = _lines(
        f"{name} - {kind}" for kind, names in objects.items() for name in sorted(names)
    )
    return f"""(define (problem {task.house.scene}_{task.trial:02d})
  (:domain alfred)
  (:objects
{declared}
  )
  (:init
{_lines(f"({fact})" for fact in facts)}
  )
  (:goal
{goal(task)}
  )
)
"""


def goal(task: Spec) -> str:
    """Write the goal of a task as the official games do."""
    obj, target = f"{task.obj}Type", f"{task.target}Type"
    if task.type == "look_at_obj_in_light":
        return f"""    (and
      (exists (?ot - object ?r - receptacle ?a - agent ?l - location)
        (and (objectType ?ot {target}) (toggleable ?ot) (isToggled ?ot)
          (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))
      (exists (?o - object ?a - agent)
        (and (objectType ?o {obj}) (holds ?a ?o))))"""
    if task.type == "pick_two_obj_and_place":
        return f"""    (and
      (exists (?r - receptacle)
        (exists (?o1 - object)
          (and (objectType ?o1 {obj}) (receptacleType ?r {target}) (inReceptacle ?o1 ?r)
            (exists (?o2 - object)
              (and (not (= ?o1 ?o2)) (objectType ?o2 {obj}) (receptacleType ?r {target})
                (inReceptacle ?o2 ?r)))))))"""
    able, state = _STATES.get(task.type, ("", ""))
    extra = f"({able} ?o) ({state} ?o) " if state else ""
    return f"""    (and
      (exists (?r - receptacle)
        (exists (?o - object)
          (and {extra}(inReceptacle ?o ?r) (objectType ?o {obj}) (receptacleType ?r {target})))))"""


def _lines(items: Iterable[str]) -> str:
    return "\n".join(f"    {item}" for item in items)
