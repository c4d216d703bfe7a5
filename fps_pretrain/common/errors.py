"""What the programs turn into a single line for the user."""


class UserError(Exception):
    """What the user asked for cannot be done; the message says why and what to do, in one line.

    It is no ValueError: code that catches the ValueErrors of a library must not catch it by accident.
    """

    exit_code = 2


class TrainingDiverged(UserError):
    """Loss or weights are no longer finite numbers; the message names the step."""

    exit_code = 3
