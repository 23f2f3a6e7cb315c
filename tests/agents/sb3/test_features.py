from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym import EtoGymError
from eto_gym.agents.sb3 import EmbeddedText, HashedText

ANY_TEXT = st.text(st.characters(codec=None, categories=None, exclude_categories=()), max_size=80)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_TEXT, max_size=5))
def test_any_text_has_features_that_depend_on_it_alone(texts: list[str]) -> None:
    hashed = HashedText(dim=16)
    rows = hashed(texts)
    assert rows.shape == (len(texts), 16)
    for row, text in zip(rows, texts, strict=True):
        assert hashed.space().contains(row)
        np.testing.assert_array_equal(row, HashedText(dim=16)([text])[0])


def test_hashes_are_the_same_in_every_process() -> None:
    text = "put a clean mug in coffeemachine 1"
    program = (
        "from eto_gym.agents.sb3 import HashedText;"
        f"print(HashedText(dim=32)([{text!r}])[0].tolist())"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert answers == {str(HashedText(dim=32)([text])[0].tolist())}


def test_words_and_their_order_count() -> None:
    hashed = HashedText(dim=256)
    rows = hashed(["go to drawer 1", "GO TO drawer 1.", "go to drawer 2", "1 drawer to go"])
    assert (rows[0] == rows[1]).all()
    assert (rows[0] != rows[2]).any()
    assert (rows[0] != rows[3]).any()
    assert (HashedText(dim=256, ngrams=1)(["a b"]) == HashedText(dim=256, ngrams=1)(["b a"])).all()


def test_counts_are_clipped_and_long_texts_cut() -> None:
    assert np.abs(HashedText(dim=4, ngrams=1)(["mug " * 400])).max() == 127
    short = HashedText(dim=64, max_words=3)
    assert (short(["a b c d e"]) == short(["a b c"])).all()


def test_collisions_cancel_on_average() -> None:
    rows = HashedText(dim=512, ngrams=1)([f"word{i}" for i in range(2000)])
    assert abs(rows.sum()) < 200  # 4 standard deviations
    assert (np.abs(rows).sum(axis=0) > 0).mean() > 0.9


def lengths(texts: Sequence[str]) -> list[list[float]]:
    return [[len(text), text.count("a"), 1] for text in texts]


def test_an_embedder_is_asked_once_per_text() -> None:
    asked: list[str] = []

    def embedder(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return lengths(texts)

    embedded = EmbeddedText(embedder, cache=3)
    assert embedded.dim == 3
    np.testing.assert_array_equal(embedded(["aa", "b", "aa"]), lengths(["aa", "b", "aa"]))
    embedded(["b"])
    assert asked == ["", "aa", "b"]
    np.testing.assert_array_equal(embedded(["b", "c", "d"]), lengths(["b", "c", "d"]))
    np.testing.assert_array_equal(embedded(["aa"]), lengths(["aa"]))  # forgotten, asked again


@pytest.mark.parametrize(
    "answer", [[1.0], [[1.0], [2.0]], [[]]], ids=["one dimension", "two rows", "empty"]
)
def test_an_embedder_of_the_wrong_shape_is_refused(answer: object) -> None:
    with pytest.raises(EtoGymError, match="shape"):
        EmbeddedText(lambda texts: answer)


def test_numbers_that_are_not_finite_are_refused() -> None:
    embedded = EmbeddedText(lambda texts: [[float("nan") if t else 0.0] for t in texts])
    with pytest.raises(EtoGymError, match="finite"):
        embedded(["mug"])
