"""The generated pages of the documentation, and its links."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path

import pytest
from sitegen import commands, environments, links, names

from eto_gym.cli.main import COMMANDS
from eto_gym.cli.train import METHODS
from tests.docs.conftest import ROOT, options_of

pytest.importorskip("jsonargparse")


def test_every_command_and_method_has_a_page_with_all_its_options() -> None:
    pages = {page.title: page.text for page in commands.pages()}
    assert set(pages) == {
        "Overview",
        *(f"eto-gym {name}" for name in COMMANDS if name != "train"),
        *(f"eto-gym train {method}" for method in METHODS),
    }
    for argv in (["eval"], ["view"], ["serve"], ["train", "eto"], ["train", "dpo"]):
        text = pages[" ".join(["eto-gym", *argv])]
        options = options_of(commands.parser_of(argv))
        assert len(options) > 3
        for option in options:
            if not option.startswith(("--help", "--print_", "--print-", "--no-", "--no_")):
                assert f"`{option}" in text, (argv, option)
    assert "eto-gym data download alfworld" in pages["eto-gym data"]
    assert str(Path.home()) not in "".join(pages.values())


TABLES = {"advantages", "overview", "preferences"}
"""Pages of what several methods can be set to."""

OF_SETTINGS = {"cost-to-go", "dmpo", "gigpo", "kto", "milestones"}
"""Pages of settings of other methods' commands."""


def test_a_default_is_said_once() -> None:
    for page in commands.pages():
        rows = [line for line in page.text.splitlines() if line.startswith("| `")]
        assert not [row for row in rows if "(default:" in row], page.path


def test_every_method_has_a_page_of_its_own() -> None:
    pages = {path.stem for path in (ROOT / "docs/methods").glob("*.md")}
    assert pages == {*METHODS, *TABLES, *OF_SETTINGS}


@pytest.mark.parametrize("method", sorted({*METHODS, *OF_SETTINGS}))
def test_a_methods_page_says_what_it_computes_from_whom_and_when_to_pick_it(method: str) -> None:
    text = (ROOT / f"docs/methods/{method}.md").read_text("utf-8")
    has = functools.partial(re.search, string=text, flags=re.MULTILINE)
    assert has(r"^    eto-gym train "), "a command"
    assert has(r"^    (?!eto-gym |pip |trainer = )\S.* = "), "an equation"
    assert has(r"^\| setting \| default \| meaning \|$"), "settings"
    assert has(r"^Pick it "), "when to pick it"
    assert has(r"^Sources?: [^\n]*(?:\n[^\n]+)*?https://"), "a source"


def test_every_public_name_has_an_entry_in_the_reference() -> None:
    for package in names.PACKAGES:
        read = names.read_package(ROOT, package)
        module = importlib.import_module(package)
        assert set(read.homes) == set(module.__all__) - {"__version__"}
        for name, home in read.homes.items():
            path, _, attribute = home.rpartition(".")
            assert getattr(importlib.import_module(path), attribute) is getattr(module, name)


def test_an_environments_page_counts_its_tasks_and_plays_an_episode() -> None:
    shown = environments.Shown("ETO/ALFWorld-v0", ("dev",), 0)
    page = environments._page(shown, "# R\n\n## ALFWorld\n\n186,000 steps\n\n## WebShop\n\nmuch\n")
    for part in ("| **all** | **500** |", "186,000 steps", "[reward 1]", '"action_grammar"'):
        assert part in page.text
    assert "much" not in page.text
    with pytest.raises(LookupError, match="no section 'Nowhere'"):
        environments.section("## Somewhere\n", "Nowhere")


def test_links_between_files_become_links_between_pages() -> None:
    pages = {"README.md": "index.md", "docs/scores.md": "scores.md", "B/r.md": "figures/r.md"}
    pages["docs/methods/sft.md"] = "methods/sft.md"

    def moved(text: str, source: str) -> str:
        return links.between_pages(text, source, pages[source], pages)

    assert moved("[a](docs/scores.md#card)", "README.md") == "[a](scores.md#card)"
    assert moved("[a](../scores.md)", "docs/methods/sft.md") == "[a](../scores.md)"
    assert moved("[a](../docs/scores.md)", "B/r.md") == "[a](../scores.md)"
    for same in ("[a](https://x.org/README.md)", "[a](#here)", "```\n[a](docs/scores.md)\n```"):
        assert moved(same, "README.md") == same


def test_a_broken_link_is_found_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/index.html").write_text('<h1 id="top">B</h1><a href="../a.html#none">a</a>')
    (tmp_path / "a.html").write_text(
        '<a href="b/#top">1</a><a href="c.html">2</a><a href="https://x.org">3</a>'
        '<img src="gone.png"><script src="https://cdn.org/x.js"></script>'
    )
    assert links.problems(tmp_path) == [
        "a.html loads https://cdn.org/x.js",
        "a.html links to c.html: no such file",
        "a.html links to gone.png: no such file",
        "b/index.html links to ../a.html#none: no such anchor",
    ]
