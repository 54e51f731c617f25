"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: the message is one sentence that names the thing and says what to do.

    The command line prints the message alone and exits with code 2; everything else is a defect of ours
    and keeps its traceback.
    """
