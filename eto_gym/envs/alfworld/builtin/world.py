"""What the household world consists of: facts that the generator, and a player, can rely on.

Every table is written with the type names of the official games ("CounterTop", "SoapBar"). What may
lie where, which objects react to heat, cold, water or a knife, and how often an object is found in
a receptacle were counted over the official training games; the sizes of the rooms are our own.
"""

from __future__ import annotations

from typing import Final

TASK_TYPES: Final = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


def _kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())


_CAN_CONTAIN = {
    "ArmChair": (
        "Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"
    ),
    "BathtubBasin": "Cloth DishSponge HandTowel SoapBar",
    "Bed": "BaseballBat BasketBall Book CellPhone Laptop Pillow TennisRacket",
    "Cabinet": (
        "Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug "
        "Newspaper Pan PepperShaker Plate Plunger Pot SaltShaker SoapBar SoapBottle "
        "SprayBottle TissueBox ToiletPaper Vase WateringCan WineBottle"
    ),
    "Cart": (
        "Candle Cloth DishSponge HandTowel Plunger SoapBar SoapBottle SprayBottle TissueBox "
        "ToiletPaper"
    ),
    "CoffeeMachine": "Mug",
    "CoffeeTable": (
        "Book Bowl Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pen Pencil Plate "
        "RemoteControl Statue TissueBox Vase Watch WateringCan"
    ),
    "CounterTop": (
        "AlarmClock Apple Book Bowl Bread ButterKnife CD Candle CellPhone Cloth CreditCard "
        "Cup DishSponge Egg Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop "
        "Lettuce Mug Pan Pen Pencil PepperShaker Plate Pot Potato RemoteControl SaltShaker "
        "SoapBar SoapBottle Spatula Spoon SprayBottle Statue TissueBox ToiletPaper Tomato "
        "Vase WineBottle"
    ),
    "Desk": (
        "AlarmClock BasketBall Book Bowl Box CD CellPhone Cloth CreditCard KeyChain Laptop "
        "Mug Pen Pencil RemoteControl Statue TennisRacket TissueBox Vase Watch WateringCan"
    ),
    "DiningTable": (
        "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle "
        "CellPhone Cloth CreditCard Cup DishSponge Egg Fork Glassbottle Kettle KeyChain Knife "
        "Ladle Laptop Lettuce Mug Newspaper Pan Pen Pencil PepperShaker Plate Pot Potato "
        "RemoteControl SaltShaker SoapBottle Spatula Spoon SprayBottle Statue TennisRacket "
        "TissueBox Tomato Vase Watch WateringCan WineBottle"
    ),
    "Drawer": (
        "Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel "
        "KeyChain Knife Ladle Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker "
        "SoapBar SoapBottle Spatula Spoon SprayBottle TissueBox ToiletPaper Watch WateringCan"
    ),
    "Dresser": (
        "AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard KeyChain "
        "Laptop Mug Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket "
        "TissueBox ToiletPaper Vase Watch WateringCan"
    ),
    "Fridge": (
        "Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle"
    ),
    "GarbageCan": (
        "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper Pen Pencil Potato "
        "SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Tomato WineBottle"
    ),
    "HandTowelHolder": "HandTowel",
    "LaundryHamper": "Cloth",
    "Microwave": "Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato",
    "Ottoman": "Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
    "Safe": "CD CellPhone CreditCard KeyChain Statue Vase",
    "Shelf": (
        "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge "
        "Glassbottle HandTowel Kettle KeyChain Mug Newspaper Pen Pencil PepperShaker Plate "
        "Pot RemoteControl SaltShaker SoapBar SoapBottle SprayBottle Statue TissueBox "
        "ToiletPaper Vase Watch WateringCan WineBottle"
    ),
    "SideTable": (
        "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle "
        "CellPhone Cloth CreditCard Cup DishSponge Egg Fork HandTowel Kettle KeyChain Knife "
        "Laptop Lettuce Mug Newspaper Pan Pen Pencil PepperShaker Plate Pot Potato "
        "RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue "
        "TennisRacket TissueBox ToiletPaper Tomato Vase Watch WateringCan WineBottle"
    ),
    "SinkBasin": (
        "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle "
        "Knife Ladle Lettuce Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato"
    ),
    "Sofa": "Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
    "StoveBurner": "Kettle Pan Pot",
    "TVStand": "TissueBox",
    "Toilet": (
        "Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper"
    ),
    "ToiletPaperHanger": "ToiletPaper",
    "TowelHolder": "Towel",
}
CAN_CONTAIN: Final = {kind: _kinds(names) for kind, names in _CAN_CONTAIN.items()}
"""Receptacle type -> the object types that may be put there; other types take nothing."""

HEATABLE: Final = _kinds("Apple Bread Cup Egg Mug Plate Potato Tomato")
COOLABLE: Final = HEATABLE | _kinds("Bowl Lettuce Pan Pot WineBottle")
CLEANABLE: Final = _kinds(
    "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate "
    "Pot Potato SoapBar Spatula Spoon Tomato"
)
SLICEABLE: Final = _kinds("Apple Bread Egg Lettuce Potato Tomato")
TOGGLEABLE: Final = frozenset({"DeskLamp", "FloorLamp"})
HOLLOW: Final = _kinds("Bowl Box Cup Mug Pan Plate Pot")
"""Object types that hold other objects (`isReceptacleObject`)."""
FIXED: Final = _kinds("DeskLamp FloorLamp HousePlant Television")
"""Object types that are seen but cannot be taken."""

OPENABLE: Final = _kinds("Cabinet Drawer Fridge Microwave Safe")
"""Receptacle types that start closed (in some official games a few of them do not open)."""

_PLACES = {
    "kitchen": {
        "Apple": "CounterTop:25 Fridge:24 DiningTable:15 Microwave:13 GarbageCan:12 SinkBasin:9",
        "Book": "CounterTop:65 Cabinet:14 DiningTable:11 Drawer:5 Shelf:4",
        "Bowl": "Cabinet:36 CounterTop:21 Fridge:20 DiningTable:15 SinkBasin:3",
        "Bread": "CounterTop:55 DiningTable:31 Fridge:12",
        "ButterKnife": "CounterTop:59 DiningTable:27 Drawer:8 SinkBasin:5",
        "CellPhone": "Drawer:43 CounterTop:41 DiningTable:17",
        "CreditCard": "CounterTop:46 Drawer:37 Shelf:17",
        "Cup": "Cabinet:23 CounterTop:21 Fridge:21 DiningTable:15 SinkBasin:9 Microwave:7",
        "DishSponge": "CounterTop:26 Cabinet:24 Drawer:21 DiningTable:13 SinkBasin:7 GarbageCan:5",
        "Egg": "Fridge:25 CounterTop:24 SinkBasin:13 GarbageCan:13 Microwave:12 DiningTable:12",
        "Fork": "CounterTop:44 DiningTable:24 Drawer:22 SinkBasin:9",
        "Glassbottle": "Cabinet:33 CounterTop:29 DiningTable:15 SinkBasin:10 Fridge:10 Shelf:4",
        "Kettle": "StoveBurner:41 CounterTop:25 Cabinet:24 DiningTable:7",
        "Knife": "CounterTop:48 DiningTable:25 Drawer:21 SinkBasin:5",
        "Ladle": "CounterTop:41 Cabinet:25 Drawer:17 DiningTable:14",
        "Lettuce": "CounterTop:41 DiningTable:28 Fridge:23 SinkBasin:5",
        "Mug": (
            "CounterTop:28 CoffeeMachine:17 Cabinet:16 Fridge:14 DiningTable:10 Microwave:7 "
            "SinkBasin:6"
        ),
        "Pan": "StoveBurner:52 CounterTop:33 Cabinet:7 DiningTable:4 Fridge:4",
        "PepperShaker": "Cabinet:33 CounterTop:30 DiningTable:16 Drawer:15 Shelf:3",
        "Plate": "Cabinet:40 CounterTop:30 DiningTable:16 Fridge:9",
        "Pot": "StoveBurner:73 CounterTop:14 Fridge:4 DiningTable:4 Cabinet:3",
        "Potato": "CounterTop:28 Fridge:26 DiningTable:17 SinkBasin:11 Microwave:10 GarbageCan:6",
        "SaltShaker": "CounterTop:32 Cabinet:32 DiningTable:18 Drawer:14",
        "SoapBottle": "CounterTop:32 Cabinet:31 DiningTable:21 GarbageCan:10 Shelf:3",
        "Spatula": "CounterTop:45 DiningTable:25 Drawer:21 SinkBasin:9",
        "Spoon": "CounterTop:38 Drawer:28 DiningTable:22 SinkBasin:11",
        "Statue": "CounterTop:51 Shelf:44 DiningTable:5",
        "Tomato": "Fridge:33 CounterTop:30 DiningTable:20 GarbageCan:9 SinkBasin:7",
        "Vase": "CounterTop:34 Shelf:32 Cabinet:31 DiningTable:3",
        "WineBottle": "CounterTop:37 Cabinet:25 DiningTable:24 GarbageCan:9 Shelf:3",
    },
    "living": {
        "Book": "CoffeeTable:29 Dresser:24 Sofa:17 ArmChair:11 DiningTable:9 SideTable:9",
        "Bowl": "DiningTable:46 CoffeeTable:34 SideTable:11 Shelf:9",
        "Box": (
            "DiningTable:26 Sofa:25 CoffeeTable:24 SideTable:8 Cabinet:5 Shelf:4 Dresser:4 "
            "ArmChair:3"
        ),
        "Candle": "SideTable:44 CoffeeTable:30 DiningTable:21",
        "CellPhone": (
            "Dresser:19 SideTable:17 CoffeeTable:17 Sofa:14 Drawer:13 DiningTable:9 "
            "ArmChair:4 Ottoman:4"
        ),
        "CreditCard": (
            "Sofa:21 CoffeeTable:16 Drawer:14 ArmChair:14 SideTable:11 DiningTable:10 "
            "Dresser:7 Shelf:6"
        ),
        "KeyChain": (
            "CoffeeTable:22 SideTable:18 Drawer:17 Sofa:13 ArmChair:10 DiningTable:8 "
            "Dresser:6 Shelf:5"
        ),
        "Laptop": "Sofa:29 CoffeeTable:26 DiningTable:22 Dresser:9 SideTable:8 ArmChair:5",
        "Newspaper": (
            "Sofa:20 CoffeeTable:18 DiningTable:17 SideTable:14 Shelf:11 Dresser:8 ArmChair:7"
        ),
        "Pen": "CoffeeTable:36 Dresser:23 SideTable:22 Drawer:6 GarbageCan:4 Shelf:4 DiningTable:4",
        "Pencil": (
            "SideTable:35 CoffeeTable:29 Drawer:11 Dresser:7 GarbageCan:7 Shelf:6 DiningTable:5"
        ),
        "Pillow": "Sofa:80 ArmChair:20",
        "Plate": "DiningTable:51 CoffeeTable:24 Shelf:13 SideTable:11",
        "RemoteControl": (
            "CoffeeTable:26 Sofa:20 SideTable:14 DiningTable:12 Dresser:9 ArmChair:9 Drawer:4 "
            "Shelf:4"
        ),
        "Statue": "CoffeeTable:28 Shelf:22 DiningTable:21 SideTable:20 Dresser:8",
        "TissueBox": "CoffeeTable:36 DiningTable:19 SideTable:19 Shelf:11 TVStand:8 Drawer:3",
        "Vase": "Shelf:38 CoffeeTable:21 DiningTable:16 SideTable:12 Dresser:11",
        "Watch": "CoffeeTable:29 Drawer:23 SideTable:20 DiningTable:12 Dresser:12 Shelf:4",
        "WateringCan": "CoffeeTable:53 Shelf:38 SideTable:9",
    },
    "bedroom": {
        "AlarmClock": "Desk:34 Shelf:21 SideTable:19 Dresser:17 DiningTable:7",
        "Book": "Bed:51 Desk:19 Drawer:12 Dresser:5 SideTable:4",
        "Bowl": "Desk:43 Shelf:30 Dresser:15 DiningTable:6 SideTable:4",
        "Box": "Desk:58 Shelf:42",
        "CD": "Drawer:29 Desk:20 Dresser:14 SideTable:13 GarbageCan:8 Shelf:8 DiningTable:6",
        "CellPhone": (
            "Bed:29 Desk:18 Drawer:17 Dresser:10 SideTable:10 Shelf:8 DiningTable:3 ArmChair:3"
        ),
        "CreditCard": "Drawer:29 Shelf:18 Desk:18 SideTable:16 Dresser:12 DiningTable:3 ArmChair:3",
        "KeyChain": "Drawer:27 Desk:18 SideTable:16 Shelf:16 Dresser:13 DiningTable:4 Safe:4",
        "Laptop": "Bed:74 Desk:19 Dresser:4",
        "Mug": "Desk:36 Shelf:18 SideTable:16 Dresser:16 DiningTable:9 Cabinet:4",
        "Pen": "Desk:28 Drawer:18 Shelf:16 Dresser:15 SideTable:14 DiningTable:6",
        "Pencil": "Desk:24 Drawer:18 SideTable:18 Shelf:17 Dresser:11 DiningTable:6 GarbageCan:5",
        "Pillow": "Bed:99",
        "RemoteControl": "Drawer:34 Desk:29 SideTable:15 CounterTop:8 ArmChair:6 DiningTable:4",
        "Statue": "Shelf:43 Dresser:27 Desk:26 SideTable:5",
        "TissueBox": "Desk:37 Drawer:26 DiningTable:15 Shelf:12 SideTable:9",
    },
    "bathroom": {
        "Candle": "CounterTop:31 Toilet:30 Cabinet:13 Drawer:13 Shelf:7",
        "Cloth": "BathtubBasin:30 Cabinet:20 CounterTop:17 Drawer:15 SinkBasin:8 Shelf:4 Toilet:3",
        "DishSponge": (
            "CounterTop:20 Drawer:20 BathtubBasin:18 SinkBasin:10 Shelf:10 Toilet:8 Cart:5 "
            "Cabinet:5 GarbageCan:4"
        ),
        "HandTowel": "HandTowelHolder:96 CounterTop:4",
        "SoapBar": (
            "CounterTop:20 Toilet:16 SinkBasin:15 Cabinet:12 BathtubBasin:12 Drawer:11 "
            "GarbageCan:7 Shelf:4"
        ),
        "SoapBottle": "CounterTop:30 Toilet:24 Cabinet:21 Shelf:10 GarbageCan:9 Drawer:3",
        "SprayBottle": "CounterTop:32 Toilet:27 Cabinet:16 GarbageCan:10 Shelf:7 Cart:4",
        "TissueBox": "CounterTop:36 Shelf:29 Drawer:20 Cabinet:5 Cart:4 SideTable:4",
        "ToiletPaper": (
            "Toilet:23 CounterTop:23 ToiletPaperHanger:12 Drawer:11 Cabinet:11 GarbageCan:9 Shelf:5"
        ),
        "Towel": "TowelHolder:100",
    },
}


def _weights(text: str) -> dict[str, int]:
    return {kind: int(weight) for kind, weight in (item.split(":") for item in text.split())}


PLACES: Final = {
    room: {kind: _weights(text) for kind, text in row.items()} for room, row in _PLACES.items()
}
"""Room -> object type -> receptacle type -> share in percent of the times it was found there."""

LAMP_PLACES: Final = {"SideTable": 40, "Desk": 29, "Dresser": 20, "Shelf": 9, "CoffeeTable": 2}
FIXED_PLACES: Final = {
    "HousePlant": ("kitchen living bedroom", "CounterTop DiningTable SideTable CoffeeTable Shelf"),
    "Television": ("living", "TVStand Dresser"),
}
"""Scenery: object type -> the rooms that may have it, and the receptacles that it stands on."""

ROOM_SHARES: Final = {"kitchen": 46, "bedroom": 22, "living": 14, "bathroom": 18}
"""How often a house is of this room kind, in percent; about the official shares."""

TASK_SHARES: Final = {
    "kitchen": (10, 0, 20, 28, 28, 14),
    "bedroom": (30, 40, 0, 0, 0, 30),
    "living": (40, 20, 0, 0, 0, 40),
    "bathroom": (30, 0, 40, 0, 0, 30),
}
"""How often a task of each of `TASK_TYPES` is set in a room, in percent."""

# Receptacle type: how many of it, drawn evenly between the two numbers.
_SMALL_ROOMS = {
    "kitchen": "Fridge:1-1 Microwave:1-1 SinkBasin:1-1 CounterTop:1-1 Cabinet:0-2 Drawer:0-2 "
    "GarbageCan:0-1 StoveBurner:0-1 CoffeeMachine:0-1 DiningTable:0-1",
    "bedroom": "Bed:1-1 Desk:0-1 Dresser:0-1 SideTable:0-1 Drawer:0-2 Shelf:0-2 GarbageCan:0-1",
    "living": "Sofa:1-1 CoffeeTable:0-1 ArmChair:0-1 SideTable:0-1 DiningTable:0-1 Drawer:0-1 "
    "Shelf:0-1 GarbageCan:0-1",
    "bathroom": "Toilet:1-1 SinkBasin:1-1 CounterTop:0-1 Cabinet:0-2 Drawer:0-1 GarbageCan:0-1 "
    "ToiletPaperHanger:0-1 HandTowelHolder:0-1",
}
_MEDIUM_ROOMS = {
    "kitchen": "Fridge:1-1 Microwave:1-1 SinkBasin:1-1 CounterTop:1-2 Cabinet:0-4 Drawer:0-3 "
    "GarbageCan:0-1 StoveBurner:0-2 CoffeeMachine:0-1 Toaster:0-1 DiningTable:0-1 Shelf:0-2",
    "bedroom": "Bed:1-1 Desk:0-1 Dresser:0-1 SideTable:0-2 Drawer:0-4 Shelf:0-3 GarbageCan:0-1 "
    "Safe:0-1 ArmChair:0-1 LaundryHamper:0-1",
    "living": "Sofa:1-1 CoffeeTable:0-1 ArmChair:0-2 SideTable:0-2 DiningTable:0-1 TVStand:0-1 "
    "Drawer:0-3 Shelf:0-3 Cabinet:0-2 Dresser:0-1 GarbageCan:0-1 Ottoman:0-1",
    "bathroom": "Toilet:1-1 SinkBasin:1-2 CounterTop:0-1 Cabinet:0-4 Drawer:0-3 Shelf:0-2 "
    "GarbageCan:0-1 ToiletPaperHanger:0-1 HandTowelHolder:0-2 TowelHolder:0-1 BathtubBasin:0-1 "
    "Cart:0-1",
}
_LARGE_ROOMS = {
    "kitchen": "Fridge:1-1 Microwave:1-1 SinkBasin:1-1 CounterTop:1-4 Cabinet:6-16 Drawer:2-10 "
    "GarbageCan:1-1 StoveBurner:4-6 CoffeeMachine:1-1 Toaster:1-1 DiningTable:0-2 Shelf:0-3 "
    "SideTable:0-1 Safe:0-1",
    "bedroom": "Bed:1-2 Desk:0-2 Dresser:0-1 SideTable:0-2 Drawer:3-11 Shelf:0-8 GarbageCan:1-1 "
    "Safe:0-1 ArmChair:0-2 LaundryHamper:0-1 Cabinet:0-4 DiningTable:0-1",
    "living": "Sofa:1-2 CoffeeTable:0-2 ArmChair:0-3 SideTable:0-4 DiningTable:0-2 TVStand:0-1 "
    "Drawer:0-10 Shelf:0-8 Cabinet:0-6 Dresser:0-1 GarbageCan:1-1 Ottoman:0-1 Safe:0-1",
    "bathroom": "Toilet:1-1 SinkBasin:1-2 CounterTop:0-2 Cabinet:0-8 Drawer:0-8 Shelf:0-4 "
    "GarbageCan:1-1 ToiletPaperHanger:1-1 HandTowelHolder:1-3 TowelHolder:1-2 BathtubBasin:0-1 "
    "Cart:0-1 SideTable:0-1 Dresser:0-1",
}


def _ranges(text: str) -> dict[str, tuple[int, int]]:
    rows = (item.replace(":", "-").split("-") for item in text.split())
    return {kind: (int(low), int(high)) for kind, low, high in rows}


ROOMS: Final = {
    size: {room: _ranges(text) for room, text in rooms.items()}
    for size, rooms in (
        ("small", _SMALL_ROOMS),
        ("medium", _MEDIUM_ROOMS),
        ("large", _LARGE_ROOMS),
    )
}
RECEPTACLE_COUNTS: Final = {"small": (5, 7), "medium": (6, 14), "large": (10, 34)}
OBJECT_COUNTS: Final = {"small": (4, 8), "medium": (6, 16), "large": (14, 40)}
"""House size -> the fewest and most receptacles, and movable objects."""

TASK_TEXTS: Final[dict[str, tuple[str, str]]] = {
    "pick_and_place_simple": ("put a {obj} in {to}.", "put some {obj} on {to}."),
    "look_at_obj_in_light": (
        "look at {obj} under the {to}.",
        "examine the {obj} with the {to}.",
    ),
    "pick_clean_then_place_in_recep": (
        "put a clean {obj} in {to}.",
        "clean some {obj} and put it in {to}.",
    ),
    "pick_heat_then_place_in_recep": (
        "put a hot {obj} in {to}.",
        "heat some {obj} and put it in {to}.",
    ),
    "pick_cool_then_place_in_recep": (
        "put a cool {obj} in {to}.",
        "cool some {obj} and put it in {to}.",
    ),
    "pick_two_obj_and_place": (
        "put two {obj} in {to}.",
        "find two {obj} and put them in {to}.",
    ),
}
"""Task type -> the two ways in which its games state the task."""
