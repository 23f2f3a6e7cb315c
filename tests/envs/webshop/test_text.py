"""Tokens, terms and stems against those that Lucene 8.11 gave for the same texts."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.envs.webshop.search import tokenizer
from eto_gym.envs.webshop.search.analysis import STOP_WORDS, analyze
from eto_gym.envs.webshop.search.stemmer import stem
from eto_gym.envs.webshop.search.tokenizer import MAX_TOKEN, tokenize
from tests.growth import check_linear

DATA = Path(__file__).parent / "data"

ZWJ, VS16, CAP = "\u200d", "\ufe0f", "\u20e3"

# Each line tests one rule of UAX #29 (its number first) or one choice of Lucene's.
WORD_BREAKS = [
    ("WB4: marks join what they follow", "e\u0301a\u0308 x", ["e\u0301a\u0308", "x"]),
    ("WB4: a soft hyphen joins", "co\u00adop", ["co\u00adop"]),
    ("WB4: a mark alone is dropped", "a \u0301 b", ["a", "b"]),
    ("WB5: letters of any alphabet join", "naïveЖλ", ["naïveЖλ"]),
    ("WB6/7: mid-letters", "o'neil a.b c:d e·f g’h", ["o'neil", "a.b", "c:d", "e·f", "g’h"]),
    ("WB6/7: not at an end", "'tis dogs' a. :b", ["tis", "dogs", "a", "b"]),
    ("WB6/7: not twice", "a..b c''d", ["a", "b", "c", "d"]),
    ("WB6/7: not between letter and number", "a.1 1'a", ["a", "1", "1", "a"]),
    ("WB7a: Hebrew keeps a final single quote", "א' א'ב", ["א'", "א'ב"]),
    ("WB7b/c: Hebrew keeps an inner double quote", 'א"ב א" a"b', ['א"ב', "א", "a", "b"]),
    ("WB8-10: digits and letters", "3a a3 3.5mm", ["3a", "a3", "3.5mm"]),
    ("WB11/12: mid-numbers", "6.76 1,299 3;4 5'6", ["6.76", "1,299", "3;4", "5'6"]),
    ("WB11/12: a colon is none", "12:30", ["12", "30"]),
    ("WB13: Katakana joins", "カタカナ ｶﾀｶﾅ", ["カタカナ", "ｶﾀｶﾅ"]),
    ("WB13: but not with letters", "カaカ", ["カ", "a", "カ"]),
    ("WB13a/b: underscores join", "a_b _1_ カ_a __", ["a_b", "_1_", "カ_a"]),
    ("WB15/16: flags are pairs", "🇩🇪🇫🇷🇮", ["🇩🇪", "🇫🇷"]),
    ("full-width digits are numbers", "１２.５", ["１２.５"]),
    ("other marks split", "a-b c/d (e) f&g $5 50%", [*"abcdefg", "5", "50"]),
    ("Han characters stand alone", "日本茶屋 mug", ["日", "本", "茶", "屋", "mug"]),
    ("Han beyond the BMP too", "𠀀𠀁", ["𠀀", "𠀁"]),
    ("Hiragana characters stand alone", "ひらがな", ["ひ", "ら", "が", "な"]),
    ("the prolonged sound mark is Katakana", "コーヒー", ["コーヒー"]),
    ("mixed Japanese", "緑茶ティーです", ["緑", "茶", "ティー", "で", "す"]),
    ("Hangul syllables join", "한국어 녹차", ["한국어", "녹차"]),
    ("Hangul joins letters", "한a국", ["한a국"]),
    ("South East Asian letters stay together", "สวัสดีครับ ຊາ", ["สวัสดีครับ", "ຊາ"]),
    ("Chinese punctuation is dropped", "茶。茶、", ["茶", "茶"]),
    ("emoji are tokens", "tea ☕☕ 😀", ["tea", "☕", "☕", "😀"]),
    ("so are signs that can be emoji", "ACME™ ®", ["ACME", "™", "®"]),
    ("emoji presentation", f"❤{VS16}x", [f"❤{VS16}", "x"]),
    ("emoji modifiers", "👍🏽👍", ["👍🏽", "👍"]),
    ("a modifier alone", "🏽", ["🏽"]),
    ("emoji joined by ZWJ", f"👩{ZWJ}👩{ZWJ}👧!", [f"👩{ZWJ}👩{ZWJ}👧"]),
    ("modifiers inside ZWJ sequences", f"👩🏽{ZWJ}🚀", [f"👩🏽{ZWJ}🚀"]),
    ("keycaps", f"1{VS16}{CAP} #{CAP} *", [f"1{VS16}{CAP}", f"#{CAP}"]),
    ("tag sequences", "🏴\U000e0067\U000e0062\U000e007f", ["🏴\U000e0067\U000e0062\U000e007f"]),
    ("letters that are emoji", "ⓜ", ["ⓜ"]),
    ("fractions are dropped", "½ cup", ["cup"]),
    ("white space of any kind splits", "a\u00a0b\u3000c\nd", ["a", "b", "c", "d"]),
    ("control characters split", "a\x00b\x7fc", ["a", "b", "c"]),
]


@pytest.mark.parametrize(
    ("text", "tokens"), [case[1:] for case in WORD_BREAKS], ids=[case[0] for case in WORD_BREAKS]
)
def test_word_break_rule(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


def test_tokens_and_terms_equal_lucenes() -> None:
    with lzma.open(DATA / "lucene_tokens.jsonl.xz", "rt", encoding="utf-8") as lines:
        cases = [json.loads(line) for line in lines]
    assert len(cases) == 1781
    assert [tokenize(case["text"]) for case in cases] == [case["tokens"] for case in cases]
    assert [analyze(case["text"]) for case in cases] == [case["terms"] for case in cases]


def test_stems_equal_lucenes() -> None:
    pairs = [line.split() for line in (DATA / "lucene_stems.txt").read_text("utf-8").splitlines()]
    assert len(pairs) == 3000
    wrong = [(word, "-" if word in STOP_WORDS else stem(word), want) for word, want in pairs]
    assert [case for case in wrong if case[1] != case[2]] == []


@pytest.mark.parametrize("unit", ["a", "é", "_", "😀", "\U00010400", "カ"])
def test_long_tokens_are_cut_into_chunks(unit: str) -> None:
    text = unit * 600
    tokens = tokenize(text)
    if unit in {"_", "😀"}:
        assert tokens == ([] if unit == "_" else list(text))
        return
    assert "".join(tokens) == text
    sizes = [len(token.encode("utf-16-le")) // 2 for token in tokens]
    width = len(unit.encode("utf-16-le")) // 2
    assert all(size == MAX_TOKEN - MAX_TOKEN % width for size in sizes[:-1])


# One or two characters of every class, so that texts of them exercise all rules.
CLASSES = [
    *(
        "a",
        "é",
        "7",
        "_",
        "'",
        ".",
        ",",
        ":",
        "א",
        '"',
        "カ",
        "日",
        "ひ",
        "ส",
        "\u0301",
        ZWJ,
        VS16,
        CAP,
    ),
    *(
        "🇩",
        "🏽",
        "👩",
        "☕",
        "🏴",
        "\U000e0067",
        "\U000e007f",
        "#",
        "한",
        "\U00010400",
        "\u00ad",
        " ",
        "!",
    ),
]


def tokenize_plainly(text: str) -> list[str]:
    """Look again at up to 255 units from each position on."""
    tokens, start = [], 0
    while start < len(text):
        state: tokenizer._State | None = tokenizer._start()
        best, units = start, 0
        for at in range(start, len(text)):
            units += 1 + (text[at] > "\uffff")
            if state is None or units > MAX_TOKEN:
                break
            state = state.after(tokenizer._classes(ord(text[at])))
            if state is not None and state.accepting:
                best = at + 1
        tokens += [text[start:best]] if best > start else []
        start = max(best, start + 1)
    return tokens


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(CLASSES), min_size=1, max_size=4).map("".join),
            st.sampled_from([1, 1, 1, 2, 9, 60, 130, 300]),
        ),
        max_size=6,
    )
)
@settings(max_examples=500, deadline=None)
def test_looking_ahead_once_finds_the_same_tokens(parts: list[tuple[str, int]]) -> None:
    text = "".join(unit * count for unit, count in parts)
    assert tokenize(text) == tokenize_plainly(text)


@pytest.mark.parametrize("length", [*range(250, 260), 509, 510, 511, 900])
@pytest.mark.parametrize("unit", ["_", ZWJ, "\u0301", "\U000e0067", f"_{ZWJ}", "_\u0301"])
def test_tokens_at_the_limit_of_the_length(unit: str, length: int) -> None:
    for text in (
        f"{unit * length}a",
        f"a{unit * length}",
        f"1,{unit * length}1é",
        f"🏴{unit * length}",
    ):
        assert tokenize(text) == tokenize_plainly(text)


@pytest.mark.parametrize(
    "unit", [*CLASSES, f"_{ZWJ}", f"1{ZWJ},", f"a'{ZWJ}", "👩" + ZWJ, "_\u0301", "é_ "]
)
@pytest.mark.parametrize(("head", "tail"), [("", ""), ("", " é"), ("é", ""), ("1,", "x")])
def test_no_text_takes_more_than_linear_time(head: str, unit: str, tail: str) -> None:
    check_linear(tokenize, lambda length: head + unit * (length // len(unit)) + tail, length=2_000)


@pytest.mark.parametrize("unit", ["_", ZWJ, "\U000e0067", f"_{ZWJ}"])
def test_what_is_looked_at_in_vain_is_looked_at_once(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    after = tokenizer._State.after

    def counted(state: tokenizer._State, classes: str) -> tokenizer._State | None:
        nonlocal looks
        looks += 1
        return after(state, classes)

    monkeypatch.setattr(tokenizer._State, "after", counted)
    tokenize("é" + unit * (8_000 // len(unit)))
    assert looks < 4 * 8_000


@given(st.text(max_size=60))
def test_any_text_gives_tokens_that_it_holds_in_order(text: str) -> None:
    at = 0
    for token in tokenize(text):
        assert token
        at = text.index(token, at) + len(token)


@given(st.text(max_size=40), st.sampled_from(" \t\n"), st.text(max_size=40))
def test_white_space_separates_any_texts(left: str, space: str, right: str) -> None:
    assert tokenize(left + space + right) == tokenize(left) + tokenize(right)


@given(st.text(st.characters(max_codepoint=0x7F), max_size=60))
def test_both_ways_agree_on_ascii(text: str) -> None:
    # The foreign word sends the whole line through the automaton, where no white space splits it.
    words = text.split()
    slow = [token for word in words for token in tokenize(word + "\u2028é")[:-1]]
    assert slow == [token for word in words for token in tokenize(word)]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Women's MEN’S dogs＇S", ["women", "men", "dog"]),
        ("The shirt is not for a boy", ["shirt", "boi"]),
        ("İstanbul ΣΑΣ Ünal", ["istanbul", "σασ", "ünal"]),
        ("'s a's is's", ["s"]),
        ("café crème", ["café", "crème"]),
    ],
)
def test_analysis(text: str, terms: list[str]) -> None:
    assert analyze(text) == terms


@given(st.text(st.characters(categories=["Ll"]), max_size=30))
def test_stems_are_not_longer_than_words_by_more_than_an_e(word: str) -> None:
    assert len(stem(word)) <= len(word) + 1
