"""The datasets of this package as SeqIO sources, prepared when first read."""

import contextlib
import io
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.utils import tqdm_utils

from cot_latent.errors import UserError
from cot_latent.tasks.datasets import checked

_LOGGERS = ("absl", "tensorflow", "urllib3")


class PreparedTfdsSource(seqio.TfdsDataSource):
  """A TFDS source that prepares its dataset when it is first read.

  With SeqIO's own source, TFDS could not learn the folder with the files.
  """

  def __init__(
    self,
    tfds_name: str,
    splits: Sequence[str],
    get_manual_dir: Callable[[], str | None],
  ):
    """Makes a source; nothing is read yet.

    Args:
      tfds_name: Dataset and config, such as `cot_latent_bbh/navigate`; its
        version is the builder's.
      splits: Splits of the dataset that the source has.
      get_manual_dir: Returns the folder with the files; None downloads them.
    """
    self._full_name = f"{tfds_name}:{_builder_class(tfds_name).VERSION}"
    self._get_manual_dir = get_manual_dir
    self._prepared: tuple[str | None, str | None] | None = None
    # SeqIO must not prepare anything itself, which would download the files.
    super().__init__(self._full_name, splits=tuple(splits), read_only=True)

  @property
  def tfds_dataset(self) -> seqio.LazyTfdsLoader:
    """SeqIO's loader, through which every read of the dataset goes.

    Raises:
      UserError: As in `prepare`.
    """
    loader = super().tfds_dataset
    wanted = self._get_manual_dir(), loader.data_dir
    if self._prepared != wanted:
      prepare(self._full_name, *wanted)
      self._prepared = wanted
    return loader

  def __str__(self) -> str:
    """Names the dataset; SeqIO's method would prepare it first."""
    return f"{type(self).__name__}({self._full_name})"

  __repr__ = __str__


def make_source(
  tfds_name: str, splits: Sequence[str], data_dir: str | None
) -> PreparedTfdsSource:
  """Makes a source from a dataset.

  Args:
    tfds_name: See `PreparedTfdsSource`.
    splits: See `PreparedTfdsSource`.
    data_dir: Folder with bbh/ and gsm8k/; None downloads the files.
  """
  return PreparedTfdsSource(tfds_name, splits, lambda: data_dir)


def read_rows(
  tfds_name: str, split: str, data_dir: str | None
) -> list[dict[str, str]]:
  """Reads a split of a dataset, sorted by id; see `make_source`.

  Raises:
    UserError: As in `prepare`.
  """
  source = make_source(tfds_name, [split], data_dir)
  dataset = source.get_dataset(split, shuffle=False)
  rows = [
    {key: value.decode() for key, value in row.items()}
    for row in dataset.as_numpy_iterator()
  ]
  return sorted(rows, key=lambda row: row["id"])


def prepare(
  tfds_name: str, manual_dir: str | None, tfds_data_dir: str | None
) -> None:
  """Prepares a dataset unless there is an intact copy of it.

  Args:
    tfds_name: See `PreparedTfdsSource`.
    manual_dir: Folder with the files, which are checked even if there is a
      copy; None downloads them if there is no copy.
    tfds_data_dir: Folder of the copies; None is TFDS's own folder.

  Raises:
    UserError: If a file is missing, differs from its expected content or cannot
      be downloaded, if the copy cannot be written, or if it is damaged.
  """
  root = tfds.core.Path(tfds_data_dir or constants.DATA_DIR).expanduser()
  with _quiet():
    is_there, builder = _open(tfds_name, root)
    if manual_dir is not None:
      builder.check_folder(pathlib.Path(manual_dir))
    if not is_there:
      _write(builder, manual_dir, root)
    _check_copy(builder)


def _builder_class(tfds_name: str) -> type[checked.CheckedBuilder]:
  return tfds.builder_cls(tfds_name.split("/")[0].split(":")[0])


def _open(tfds_name: str, root) -> tuple[bool, checked.CheckedBuilder]:
  """Returns whether there is a copy, and a builder that has read its info."""
  builder_class = _builder_class(tfds_name)
  config = tfds_name.split(":")[0].partition("/")[2]
  folder = root.joinpath(builder_class.name, config, str(builder_class.VERSION))
  is_there = _exists(folder, root)
  try:
    return is_there, builder_class(config=config or None, data_dir=root)
  except Exception as error:  # from protobuf or TFDS, for dataset_info.json
    if not is_there:
      raise
    raise _damaged(folder, error) from None


def _exists(folder, root) -> bool:
  try:
    return folder.exists()
  except OSError as error:
    raise _unwritable(root, error) from None


def _write(
  builder: checked.CheckedBuilder, manual_dir: str | None, root
) -> None:
  config = tfds.download.DownloadConfig(
    manual_dir=manual_dir, try_download_gcs=False
  )
  try:
    builder.download_and_prepare(download_config=config)
  except (OSError, RuntimeError, tf.errors.OpError) as error:
    # TFDS turns TensorFlow's errors into a RuntimeError.
    cause = error.__cause__ or error
    if not isinstance(cause, OSError | tf.errors.OpError):
      raise
    # TFDS renames its temporary folder at the end, which only the first of
    # several processes can do; the other processes use its copy.
    if not _exists(builder.data_path, root):
      raise _unwritable(root, cause) from None


def _check_copy(builder: checked.CheckedBuilder) -> None:
  """Reads a copy once; TensorFlow compares each record with its checksum."""
  folder = builder.data_path
  try:
    info = tfds.builder_from_directory(folder).info
    # Not TFDS's reader: its pipelines take longer to build than to run.
    found = {
      name: sum(
        1
        for path in split.filepaths
        for _ in tf.compat.v1.io.tf_record_iterator(os.fspath(path))
      )
      for name, split in info.splits.items()
    }
  except Exception as error:  # from TFDS, protobuf, JSON or TensorFlow
    raise _damaged(folder, error) from None
  # TFDS would also accept a copy that was made with max_examples_per_split.
  for name, wanted in builder.sizes().items():
    if found.get(name) != wanted or info.splits[name].num_examples != wanted:
      fault = f"{name} has {found.get(name, 0)} rows instead of {wanted}"
      raise _damaged(folder, fault)


def _damaged(folder, error) -> UserError:
  return UserError(
    f"the prepared dataset in {folder} is damaged ({_in_short(error)}): "
    "delete that folder, and it is made again"
  )


def _unwritable(root, error) -> UserError:
  return UserError(
    f"cannot write the prepared dataset to {root} ({_in_short(error)}): set "
    "TFDS_DATA_DIR to a folder that can be written and has room"
  )


def _in_short(error) -> str:
  text = getattr(error, "strerror", None) or getattr(error, "message", None)
  lines = str(text or error).strip().splitlines()
  # TensorFlow's lines have a path before the reason.
  return lines[0].split("; ")[-1][:150] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TFDS's progress bars off the terminal: its errors say enough."""
  loggers = [logging.getLogger(name) for name in _LOGGERS]
  levels = [logger.level for logger in loggers]
  had_bars = tqdm_utils._active
  try:
    tfds.disable_progress_bar()
    for logger in loggers:
      logger.setLevel(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.display_progress_bar(had_bars)
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)
