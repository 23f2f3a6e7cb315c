"""Porter's stemmer in the extended form that its author published and Lucene uses.

M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980, with the later departures:
-bli becomes -ble (the paper: -abli), and -logi becomes -log. Lengths are counted in UTF-16 units,
as Lucene does.
"""

from __future__ import annotations

_STEP_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize",
    "bli": "ble", "alli": "al", "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize",
    "ation": "ate", "ator": "ate", "alism": "al", "iveness": "ive", "fulness": "ful",
    "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble", "logi": "log",
}  # fmt: skip
_STEP_3 = {
    "icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": "",
}  # fmt: skip
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "sion",
    "tion", "ou", "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip


def stem(word: str) -> str:
    """Return the stem of a lower-case word; words of one or two letters stay as they are.

    Example:
        >>> [stem(word) for word in ("dresses", "relational", "possibly", "hopping", "sky")]
        ['dress', 'relat', 'possibl', 'hop', 'sky']
    """
    if max(word, default="") > "\uffff":
        halves = word.encode("utf-16-le")
        units = "".join(
            chr(int.from_bytes(halves[i : i + 2], "little")) for i in range(0, len(halves), 2)
        )
        return _stem(units).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _stem(word)


def _stem(word: str) -> str:
    if len(word) < 3:
        return word
    word = _step_1(word)
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    word = _replace(word, _STEP_2)
    word = _replace(word, _STEP_3)
    word = _step_4(word)
    return _step_5(word)


def _step_1(word: str) -> str:
    """Remove plurals, -ed and -ing."""
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            return _mend(base) if _has_vowel(base) else word
    return word


def _mend(base: str) -> str:
    """Restore what -ed or -ing had changed at the end of a word."""
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if _ends_double(base):
        return base if base[-1] in "lsz" else base[:-1]
    return base + "e" if _measure(base) == 1 and _ends_short(base) else base


def _replace(word: str, rules: dict[str, str]) -> str:
    """Apply the rule of the longest suffix, if the rest has a vowel followed by a consonant."""
    for length in range(min(7, len(word)), 2, -1):
        suffix = word[-length:]
        if suffix in rules:
            base = word[:-length]
            return base + rules[suffix] if _measure(base) > 0 else word
    return word


def _step_4(word: str) -> str:
    for length in range(min(5, len(word)), 1, -1):
        suffix = word[-length:]
        if suffix in _STEP_4:
            cut = 3 if suffix in {"sion", "tion"} else length
            return word[:-cut] if _measure(word[:-cut]) > 1 else word
    return word


def _step_5(word: str) -> str:
    """Remove a final -e and reduce -ll to -l in longer words."""
    whole = _measure(word)
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_short(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and whole > 1 else word


class _Sounds(dict[int, str]):
    """Translates a letter to "v" for a vowel or "c" for a consonant; y is left to `_form`."""

    def __missing__(self, code: int) -> str:
        sound = self[code] = "v" if chr(code) in "aeiou" else "c"
        return sound


_SOUNDS = _Sounds({ord("y"): "y"})


def _form(word: str) -> str:
    """Return the word as vowels and consonants, "trays" as "ccvcc"; y is a vowel after "c"."""
    form = word.translate(_SOUNDS)
    while "y" in form:
        at = form.index("y")
        form = form[:at] + ("v" if form[at - 1 : at] == "c" else "c") + form[at + 1 :]
    return form


def _measure(word: str) -> int:
    """Count the places where a consonant follows a vowel."""
    return _form(word).count("vc")


def _has_vowel(word: str) -> bool:
    return "v" in _form(word)


def _ends_double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _form(word)[-1] == "c"


def _ends_short(word: str) -> bool:
    """Tell whether a word ends consonant, vowel, consonant, the last not w, x or y."""
    return _form(word).endswith("cvc") and word[-1] not in "wxy"
