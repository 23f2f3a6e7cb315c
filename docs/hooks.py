"""What MkDocs calls while it builds the site: see `sitegen`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page as SitePage
from sitegen import commands, environments, links, names

ROOT = Path(__file__).resolve().parents[1]

TAKEN = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results.md": "figures/results.md",
    "benchmarks/panel.md": "figures/panel.md",
}
"""Files outside this folder that are pages of the site -> where they stand in it."""

FIRST = ["getting-started.md"]
PROJECT = ["decisions.md", "versions.md"]
HOW_TO = [
    *["python.md", "gymnasium.md", "viewer.md", "scores.md", "own-environment.md", "own-policy.md"],
    *["own-method.md", "models.md", "data.md", "serving.md", "serving-environments.md"],
    *["gpu.md", "cluster.md"],
    *["training-at-scale.md", "cli.md", "examples.md"],
]
"""The order of these pages; others come after them."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write down the navigation; a page that is not named here is a how-to."""
    docs = Path(config.docs_dir)
    there = {path.name for path in docs.glob("*.md")}
    how_to = [name for name in HOW_TO if name in there]
    how_to += sorted(there - {*how_to, *FIRST, *PROJECT})
    methods = sorted(f"methods/{path.name}" for path in (docs / "methods").glob("*.md"))
    methods.sort(key=lambda page: page != "methods/overview.md")  # the table of them all leads
    generated = {
        "environments": environments.pages(ROOT),
        "commands": commands.pages(),
        "reference": names.pages(ROOT),
    }
    config.extra["generated"] = [page for pages in generated.values() for page in pages]
    figures = [page for file, page in TAKEN.items() if "/" in file and (ROOT / file).exists()]
    config.nav = [
        {"Start": ["index.md", *FIRST]},
        {"Environments": [{page.title: page.path} for page in generated["environments"]]},
        {"Methods": methods},
        {"How to": how_to},
        {"Commands": [{page.title: page.path} for page in generated["commands"]]},
        {"Reference": [{page.title: page.path} for page in generated["reference"]]},
        {"Figures": figures},
        {"Project": ["contributing.md", *PROJECT, "changelog.md"]},
    ]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are generated, and the project's files outside this folder."""
    texts = {page.path: page.text for page in config.extra["generated"]}
    for file, path in TAKEN.items():
        if (ROOT / file).exists():
            texts[path] = (ROOT / file).read_text(encoding="utf-8")
    for path, text in texts.items():
        made = File.generated(config, path, content=text, inclusion=InclusionLevel.INCLUDED)
        files.append(made)
    return files


def on_page_markdown(markdown: str, *, page: SitePage, config: MkDocsConfig, files: Files) -> str:
    """Make links between the project's files links between pages."""
    path = page.file.src_uri
    pages = {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages()}
    pages |= TAKEN
    # The README names the folder of the methods.
    pages["docs/methods"] = "methods/eto.md"
    source = next((file for file, where in TAKEN.items() if where == path), f"docs/{path}")
    command = f"train-{Path(path).stem}.md"
    if path.startswith("methods/") and f"commands/{command}" in pages.values():
        markdown += f"\n\nAll options: [eto-gym train {Path(path).stem}](../commands/{command}).\n"
    return links.between_pages(markdown, source, path, pages)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write llms.txt, and check every link of what was built.

    Raises:
        PluginError: A link leads nowhere, or a page needs a network.
    """
    site = Path(config.site_dir)
    (site / "llms.txt").write_text(llms_text(config), encoding="utf-8")
    found = links.problems(site)
    if found:
        raise PluginError("\n".join(found))


def llms_text(config: MkDocsConfig) -> str:
    """Return the site's pages as a list for language models: title, address, first sentence."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    texts = {page.path: page.text for page in config.extra["generated"]}
    for section in config.nav or ():
        (title, entries), *_ = section.items()
        lines += [f"## {title}", ""]
        for entry in entries:
            path = entry if isinstance(entry, str) else next(iter(entry.values()))
            lines.append(_llms_line(path, texts.get(path) or _source(path, config)))
        lines.append("")
    return "\n".join(lines)


def _source(path: str, config: MkDocsConfig) -> str:
    file = next((ROOT / file for file, page in TAKEN.items() if page == path), None)
    return (file or Path(config.docs_dir) / path).read_text(encoding="utf-8")


def _llms_line(path: str, text: str) -> str:
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    below = text[title.end() :] if title else text
    paragraphs: list[Any] = [" ".join(p.split()) for p in below.split("\n\n") if p.strip()]
    plain = next((p for p in paragraphs if re.match(r"[A-Z]|`[^`]", p)), "")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)
    sentence = re.split(r"(?<=\.)\s", plain, maxsplit=1)[0]
    address = path.removesuffix(".md") + ".html"
    return f"- [{title[1] if title else path}]({address})" + (f": {sentence}" if sentence else "")
