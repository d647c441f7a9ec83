"""The error that a user can mend."""


class UserError(Exception):
    """A mistake that a user can mend, in one sentence: what is wrong, where, what is allowed, what to do."""
