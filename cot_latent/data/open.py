"""Opens a task, from SeqIO or from a cache."""

from cot_latent.data.source import Source
from cot_latent.data.task import Task


def open_task(source: Source) -> Task:
  """Opens a task, from SeqIO or from a cache.

  Raises:
    UserError: If there is no such task, or if it cannot be used.
  """
  if source.cache is not None:
    from cot_latent.data import cache

    return cache.open_cached(source)
  from cot_latent.data import seqio_task

  return seqio_task.open_registered(source)
