"""The one exception that stands for a user's mistake."""


class UserError(Exception):
  """A mistake that the user can mend.

  The message says in one line what is wrong, where, and how to mend it; the
  command prints it without a traceback and exits with status 2.
  """
