"""Commands between eto-gym and other programs."""
