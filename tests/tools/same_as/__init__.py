"""Whether this checkout computes what another revision does, bit by bit: ``python -m tests.tools.same_as REVISION``."""
