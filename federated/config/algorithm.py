"""What is known of the federated algorithms before PyTorch is imported: their names, options and a few facts."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, ClassVar

from fps_pretrain.common.options import OptionFiles, check, shared


@dataclass(frozen=True)
class AlgorithmOptions:
    """Base of the ``Options`` that each file in ``federated/algorithms/`` defines.

    A field is an option of the command line: its type and range (``Annotated[float, Gt(0)]``), its default, and, in the
    string below it, its description. The class is read without running the rest of its file: it may use only
    ``dataclass``, ``Annotated``, ``ClassVar``, ``Literal``, the ranges of ``annotated_types`` and those of
    ``fps_pretrain.common.options``.

    Raises:
        UserError: a value is out of range.
    """

    keeps_state: ClassVar[bool] = False
    """Clients remember something from round to round."""

    mean_only: ClassVar[bool] = False
    """The server uses the replies through their mean alone, which is what ``--dp`` protects."""

    robust: ClassVar[bool] = False
    """The server withstands malicious clients; BatchNorm's buffers are then combined by the same rule."""

    def __post_init__(self) -> None:
        check(self)

    needs_encoder: ClassVar[bool] = False
    """Clients learn from the features of the encoder, which must then be trained, too."""

    all_replies: ClassVar[bool] = False
    """The server needs all replies of a round at a time, as a robust one does; otherwise it adds them up as they
    arrive."""

    @property
    def least_replies(self) -> int:
        """Replies without which the algorithm is not what its name promises."""
        return 1


_FILES = OptionFiles(Path(__file__).parents[1] / "algorithms", AlgorithmOptions)


def names() -> tuple[str, ...]:
    """The algorithms there are, in alphabetical order: the files of ``federated/algorithms/`` that have ``Options``."""
    return tuple(_FILES.all)


def options_class(name: str) -> type[AlgorithmOptions]:
    """The options of an algorithm."""
    return _FILES.all[name]


AlgorithmFields: Any = make_dataclass(
    "AlgorithmFields",
    shared(_FILES.all, "strategy"),
    frozen=True,
    namespace={"__module__": __name__, "__doc__": "Options of the algorithms"},
)
"""The options of all algorithms as fields that are None unless an algorithm is chosen that has them."""
