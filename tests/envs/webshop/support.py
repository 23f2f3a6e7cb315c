"""What the WebShop tests share: recorded files beside the checkout, and small catalogs."""

from __future__ import annotations

import importlib.util
import json
import lzma
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from eto_gym.envs.webshop.catalog.nouns import TaggerFunction

SHARED = Path(__file__).resolve().parents[4] / "shared"
GOLDEN = SHARED / "golden" / "webshop"

needs_shared = [
    pytest.mark.shared,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is absent"),
]
"""Marks of a test that compares with the recorded transcripts."""


def golden_file(name: str) -> Path:
    """Path of a file of the recorded 1,000-record catalog."""
    return GOLDEN / "catalog1k" / f"{name}.json.xz"


@cache
def golden_json(name: str) -> Any:
    """Parsed file of the recorded 1,000-record catalog."""
    with lzma.open(golden_file(name), "rt", encoding="utf-8") as stream:
        return json.load(stream)


def golden_lines(name: str) -> Iterator[Any]:
    """Parsed lines of a recorded list."""
    with lzma.open(GOLDEN / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


@cache
def golden_tagger() -> TaggerFunction:
    """The tagger that the recordings used in place of spaCy."""
    spec = importlib.util.spec_from_file_location("standin_nlp", GOLDEN / "standin_nlp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tagger: TaggerFunction = module.nlp
    return tagger


def record(asin: str, name: str = "Red Mug", **fields: Any) -> dict[str, Any]:
    """A product record in the official form."""
    return {
        "asin": asin,
        "name": name,
        "full_description": "",
        "small_description": [],
        "pricing": "$10.00",
        "customization_options": {},
        "images": [],
        "category": "garden",
        "query": "mugs",
        "product_category": "Home › Kitchen",
        **fields,
    }


def options(**values: list[str]) -> dict[str, Any]:
    """Options of a product record in the official form."""
    return {name: [{"value": value} for value in listed] for name, listed in values.items()}


def instruction(asin: str, text: str, attributes: list[str], wanted: list[str]) -> dict[str, Any]:
    """A human goal in the official form."""
    return {
        "asin": asin,
        "instruction": text,
        "instruction_attributes": attributes,
        "instruction_options": wanted,
    }
