"""Malformed inputs by the hundred: each must end in one line and exit code 2, with nothing written."""
