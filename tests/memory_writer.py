"""A writer of CLU's that keeps numbers in memory."""

from clu import metric_writers

made: list["MemoryWriter"] = []


class MemoryWriter(metric_writers.MetricWriter):
  def __init__(self):
    self.scalars, self.is_closed = [], False
    made.append(self)

  def write_scalars(self, step, scalars):
    self.scalars.append((step, dict(scalars)))

  def values(self, name):
    """The values of a number, in the order of the steps."""
    return [row[name] for _, row in self.scalars if name in row]

  def flush(self):
    pass

  def close(self):
    self.is_closed = True

  def write_summaries(self, step, values, metadata=None):
    raise NotImplementedError

  write_images = write_videos = write_texts = write_summaries
  write_histograms = write_audios = write_hparams = write_summaries
