"""The one exception the programs turn into a single line for the user."""


class UserError(ValueError):
    """What the user asked for cannot be done; the message says why and what to do, in one line."""
