"""Our environments as other frameworks' own: a verifiers taskset, and a task for Inspect.

Each module needs its framework installed, and imports it when the module is imported.
"""
