"""Counting what guessed tokens would save, against rows counted by hand."""

from __future__ import annotations

import pytest

from eto_gym.benchmarks.speculation import Replies, count

READ, SAID = False, True


@pytest.mark.parametrize(
    ("ids", "marks", "guesses", "expected"),
    [
        # Nothing stood before: a pass for each token.
        ([1, 2, 3], [READ, SAID, SAID], 4, Replies(2, 2)),
        # 7 is said at first; then 8, 9 are guessed from the prompt and 5 is the pass's own.
        ([7, 8, 9, 6, 7, 8, 9, 5], [READ] * 4 + [SAID] * 4, 2, Replies(4, 2)),
        # A wrong guess costs nothing, and the pass yields its token.
        ([7, 8, 7, 9], [READ, READ, READ, SAID], 4, Replies(1, 1)),
        # A guess ends where the reply does; what is read then is not said.
        ([7, 8, 9, 7, 8, 9], [READ] * 4 + [SAID, READ], 4, Replies(1, 1)),
        # The longest n-gram decides: after (1, 2) came 3, after the 2 that stood last came 4.
        ([1, 2, 3, 2, 4, 1, 2, 3], [READ] * 7 + [SAID], 1, Replies(1, 1)),
        ([1, 2, 3, 2, 4, 1, 2, 3, 2], [READ] * 7 + [SAID] * 2, 1, Replies(2, 1)),
    ],
)
def test_tokens_and_passes_are_those_of_a_count_by_hand(
    ids: list[int], marks: list[bool], guesses: int, expected: Replies
) -> None:
    assert count([(ids, marks)], guesses=guesses, ngram=2) == expected
