"""Comparisons of initialisations: runs side by side, and what they say."""
