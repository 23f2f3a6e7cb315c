"""The engine: PDDL rules and problems, goals, the wording of actions, and an episode's state."""
