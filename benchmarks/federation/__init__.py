"""Seconds a round, start-up and memory of a federation on several engines; see ``__main__``."""
