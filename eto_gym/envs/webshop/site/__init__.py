"""The shop as HTML: the observation mode "html", and the web site for people."""
