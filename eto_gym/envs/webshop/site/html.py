"""Renders pages as HTML, for the observation mode "html"."""

from __future__ import annotations

from eto_gym.envs.webshop.session import Session
from eto_gym.envs.webshop.site.view import page_view
from eto_gym.errors import require


class HtmlPages:
    """Renders pages with the templates of the web site.

    The visible text nodes of a page, joined, are the page in observation mode "text". An agent that
    reads the mark-up finds the search bar by the id `search_input`, buttons by the class `btn`,
    products by `product-link` and option values by `option`.
    """

    def __init__(self) -> None:
        """Load the templates.

        Raises:
            MissingDependencyError: Jinja is not installed.
        """
        jinja2 = require("jinja2", feature="the observation mode 'html'", extra="webshop")
        loader = jinja2.PackageLoader("eto_gym.envs.webshop.site", "templates")
        environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
        self._template = environment.get_template("observation.html")

    def render(self, session: Session) -> str:
        """Return the page that a visit shows."""
        return str(self._template.render(view=page_view(session)))
