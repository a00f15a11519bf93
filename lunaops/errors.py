"""The error that a person can mend."""


class InputError(ValueError):
    """Bad input: the message says in one line what is wrong, where, and what to do.

    `lunaops.command` prints it without a traceback. Anything else that is raised is a bug and keeps its own.
    """
