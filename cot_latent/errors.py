"""The exceptions that end the command with one line and no traceback."""


class RunError(Exception):
  """A run that cannot continue although it was started correctly.

  The message is one line, and the command exits with status 1.
  """


class UserError(Exception):
  """A mistake that the user can fix.

  The message says in one line what is wrong, where, and how to fix it. The
  command prints it without a traceback and exits with status 2.
  """


class Preempted(BaseException):
  """SIGTERM asked the process to end, and it has saved what it could.

  Like KeyboardInterrupt it is no Exception, so that no handler swallows it.
  """
