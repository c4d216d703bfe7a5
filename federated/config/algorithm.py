"""What is known of a federated algorithm before PyTorch is imported: its options and a few facts about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class AlgorithmOptions:
    """Base of the ``Options`` that each file in ``federated/algorithms/`` defines.

    A field is an option of the command line: its type and range (``Annotated[float, Gt(0)]``), its default, and, in the
    string below it, its description. The class is read without running the rest of its file: it may use only
    ``dataclass``, ``Annotated``, ``ClassVar``, ``Literal`` and the ranges of ``annotated_types``.
    """

    keeps_state: ClassVar[bool] = False
    """Clients remember something from round to round."""

    mean_only: ClassVar[bool] = False
    """The server uses the replies through their mean alone, which is what ``--dp`` protects."""

    robust: ClassVar[bool] = False
    """The server withstands malicious clients; BatchNorm's buffers are then combined by the same rule."""

    @property
    def least_replies(self) -> int:
        """Replies without which the algorithm is not what its name promises."""
        return 1
