"""A builder that checks its files, whether downloaded or read from a folder."""

import abc
import contextlib
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from cot_latent.errors import UserError

Row = Mapping[str, str]  # `id`, `question`, `answer`, `targets`
Parser = Callable[[pathlib.Path], Any]  # raises UserError for a bad row


class File(NamedTuple):
  """The expected content of a file.

  Attributes:
    url: Address for downloading it, at a fixed commit.
    size: Size in bytes.
    sha256: Hash of its content, in hexadecimal.
  """

  url: str
  size: int
  sha256: str


def read_table() -> dict[str, File]:
  """Reads checksums.tsv.

  It has TFDS's own format. The last column is the file's path below the data
  folder (in TFDS, the name of a file that was downloaded by hand).

  Returns:
    That path -> the expected content.
  """
  table = pathlib.Path(__file__).with_name("checksums.tsv")
  rows = [line.split("\t") for line in table.read_text().splitlines()]
  return {path: File(url, int(n), digest) for url, n, digest, path in rows}


def check_file(path: pathlib.Path, wanted: File, parse: Parser) -> None:
  """Compares a file with its expected content.

  Args:
    path: Path of the file.
    wanted: Expected size and sha256.
    parse: Reads the file; called if it differs, to find the fault.

  Raises:
    UserError: If it differs; names the first malformed row, if there is one,
      and the actual and the expected size.
  """
  content = path.read_bytes()
  digest = hashlib.sha256(content).hexdigest()
  if (len(content), digest) == (wanted.size, wanted.sha256):
    return
  if len(content) != wanted.size:
    fault = f"{len(content):,} bytes instead of {wanted.size:,}"
  else:
    fault = f"sha256 {digest:.16}... instead of {wanted.sha256:.16}..."
  unix = content.replace(b"\r\n", b"\n")
  if hashlib.sha256(unix).hexdigest() == wanted.sha256:
    raise UserError(f"{path} has other line ends ({fault})")
  try:
    parse(path)
  except UserError as error:
    raise UserError(f"{error}; the file has {fault}") from None
  if len(content) < wanted.size:
    fault += ": was it cut short?"
  raise UserError(f"{path} is not the published file ({fault})")


class CheckedBuilder(
  tfds.core.GeneratorBasedBuilder,
  skip_registration=True,  # type: ignore[call-arg]
):
  """Makes rows from files that are listed in checksums.tsv.

  The files come from the folder `DownloadConfig.manual_dir`, or are downloaded
  from their authors' repositories.

  Attributes:
    ABOUT: Description, homepage, citation and license, for `DatasetInfo`.
  """

  ABOUT: ClassVar[Mapping[str, str]] = {}
  # Left to `check_file`: TFDS would only say that a bad file is bad.
  url_infos = None
  _folder: pathlib.Path | None = None

  @abc.abstractmethod
  def parsers(self) -> Mapping[str, Parser]:
    """Returns the files' readers: path below the data folder -> reader."""

  @abc.abstractmethod
  def sizes(self) -> Mapping[str, int]:
    """Returns the number of rows of each split."""

  @abc.abstractmethod
  def make_splits(
    self, paths: Mapping[str, pathlib.Path]
  ) -> Mapping[str, Iterable[Row]]:
    """Makes the rows of all splits from the paths of the files."""

  def check_folder(self, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Checks the files of a folder.

    Returns:
      Path below the data folder -> path.

    Raises:
      UserError: If a file is missing or differs from its expected content.
    """
    table, paths = read_table(), {}
    for name, parse in self.parsers().items():
      paths[name] = folder / name
      try:
        check_file(paths[name], table[name], parse)
      except OSError as error:
        raise UserError(
          f"cannot read {paths[name]} ({error.strerror}): does DATA_DIR "
          f"(--data_dir), {str(folder)!r}, have {name.split('/')[0]}/?"
        ) from None
      except UserError as error:
        raise UserError(f"{error}; get it from {table[name].url}") from None
    return paths

  def download_and_prepare(self, *, download_config=None, **kwargs) -> None:
    """Prepares the dataset as TFDS does.

    Raises:
      UserError: If a file is missing or differs from its expected content.
    """
    # By itself TFDS would name a folder even if none was given.
    folder = download_config.manual_dir if download_config else None
    self._folder = None if folder is None else pathlib.Path(folder)
    super().download_and_prepare(download_config=download_config, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    names = ("id", "question", "answer", "targets")
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in names}
      ),
      **self.ABOUT,
    )

  def _split_generators(self, dl_manager):
    if self._folder is None:
      paths = self._fetch(dl_manager)
    else:
      paths = self.check_folder(self._folder)
    splits = self.make_splits(paths)
    return {
      name: self._generate_examples(rows) for name, rows in splits.items()
    }

  def _generate_examples(self, rows: Iterable[Row]):
    for row in rows:
      yield row["id"], dict(row)

  def _fetch(self, dl_manager) -> dict[str, pathlib.Path]:
    table, paths = read_table(), {}
    for name, parse in self.parsers().items():
      url = table[name].url
      path = paths[name] = _download(dl_manager, url)
      try:
        check_file(path, table[name], parse)
      except UserError as error:
        # Otherwise TFDS would take it from its cache the next time.
        path.unlink()
        path.with_suffix(f"{path.suffix}.INFO").unlink(missing_ok=True)
        raise UserError(
          f"{str(error).replace(str(path), url)}; try again, or give a folder "
          "with the files (--data_dir)"
        ) from None
    return paths


def _download(dl_manager, url: str):
  try:
    with _few_retries():
      return dl_manager.download(url)
  except Exception as error:  # from TFDS or any layer below it
    if isinstance(error, OSError) and error.errno is not None:
      raise  # an error of the disk, not of the network
    raise UserError(
      f"cannot fetch {url} ({_reason(error)}): without a network give a folder "
      "with the files (--data_dir)"
    ) from None


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
  """Limits TFDS to 4 tries: its 11 take over 3 minutes without a network."""
  kept = downloader.MAX_RETRIES
  downloader.MAX_RETRIES = 3
  try:
    yield
  finally:
    downloader.MAX_RETRIES = kept


def _reason(error: BaseException) -> str:
  """Describes in a few words why a download failed."""
  cause: BaseException | None = error
  for _ in range(20):  # longer than any chain of causes
    if cause is None:
      break
    if isinstance(cause, OSError) and cause.strerror:
      return cause.strerror
    cause = cause.__cause__ or cause.__context__
  return " ".join(f"{type(error).__name__}: {error}".split())[:200]
