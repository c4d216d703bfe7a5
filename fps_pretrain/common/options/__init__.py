"""Options as fields of dataclasses: type, range, default and description stand in the field, and the rest follows.

A field reads

    alpha: Annotated[Positive | None, goes_with("partition", "dirichlet", "inner-dirichlet", default=0.3)] = None
    \"\"\"Concentration of the Dirichlet partitions.\"\"\"

From such fields follow the checks (``fields``, ``option_set``), the flags (``flags``), and help and tables (``text``).
``files`` reads the options of an algorithm or a method without importing it.
"""

from fps_pretrain.common.options.fields import (
    MAY_DIFFER,
    THREADS,
    WIDTH,
    Option,
    OptionField,
    bare,
    check,
    check_value,
    fields_of,
    flag,
    from_plain,
    goes_with,
)
from fps_pretrain.common.options.files import OptionFiles, docs_of, shared
from fps_pretrain.common.options.option_set import OptionSet
from fps_pretrain.common.options.types import (
    MAX_THREADS,
    Count,
    Decay,
    NotNegative,
    Positive,
    Threads,
    Whole,
    Width,
    Workers,
)

__all__ = [
    "MAX_THREADS",
    "MAY_DIFFER",
    "THREADS",
    "WIDTH",
    "Count",
    "Decay",
    "NotNegative",
    "Option",
    "OptionField",
    "OptionFiles",
    "OptionSet",
    "Positive",
    "Threads",
    "Whole",
    "Width",
    "Workers",
    "bare",
    "check",
    "check_value",
    "docs_of",
    "fields_of",
    "flag",
    "from_plain",
    "goes_with",
    "shared",
]
