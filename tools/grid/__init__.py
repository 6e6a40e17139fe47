"""The experiment grid of tools/reproduce.py: every method on the same teacher, budget and steps."""
