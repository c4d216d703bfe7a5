"""Self-supervised methods, one file each.

A file defines the class ``Method``, and ``Options`` if it has numbers of its own; its name is the ``--method``.
"""

from __future__ import annotations
