"""The errors that a person who runs a recipe sees."""


class RecipeError(ValueError):
    """A recipe that cannot run as written; the message is one line: what, got, allowed."""


class Interrupted(Exception):
    """The run was stopped by the user and can be resumed."""
