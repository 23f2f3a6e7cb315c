"""ALFWorld: household tasks in text, on an own engine."""
