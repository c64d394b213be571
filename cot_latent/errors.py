"""The exceptions that end the command with one line and no traceback."""


class RunError(Exception):
  """A run that cannot go on, through no mistake in how it was started.

  The message is a line as well; the command exits with status 1.
  """


class UserError(Exception):
  """A mistake that the user can mend.

  The message says in one line what is wrong, where, and how to mend it; the
  command prints it without a traceback and exits with status 2.
  """


class Preempted(BaseException):
  """The process was asked to end, by SIGTERM, and has saved what it could.

  No Exception, as KeyboardInterrupt is none: nothing on its way mends it.
  """
