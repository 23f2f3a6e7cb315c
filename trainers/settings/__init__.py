"""Settings of methods and loops, and presets; importing them imports no torch."""
