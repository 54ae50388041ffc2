"""The one exception for what a user can put right."""


class UserError(Exception):
    """Something the user gave cannot be used: a path, a value, a file.

    The message is one or two sentences that name the thing and the way out. The command line prints it without a traceback.
    """
