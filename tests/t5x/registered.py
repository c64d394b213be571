"""Registers the toy tasks when it is imported, as a TASK_MODULE does."""

from tests.training import toy

toy.register()
