"""A table for a paper, made from the reports of runs alone.

`make_tables` writes it as Markdown, LaTeX, CSV and a plot, with a file that
names the reports of each cell. Equal reports give the same bytes on every
machine; for the plot this holds with the same version of matplotlib.
"""

import os
import pathlib
from collections.abc import Mapping

from cot_latent.errors import UserError
from cot_latent.reporting.tables import cells as table_cells
from cot_latent.reporting.tables import plot as table_plot
from cot_latent.reporting.tables import reports as table_reports
from cot_latent.reporting.tables import spec as table_spec
from cot_latent.reporting.tables import text as table_text
from cot_latent.runtime import files


def make_tables(
  path: str | pathlib.Path, output: str | pathlib.Path | None = None
) -> str:
  """Makes a table's files, all or none of them.

  Args:
    path: Path of the description, NAME.toml; see reports/README.md.
    output: Folder of the files; None is that of the description.

  Returns:
    The table in Markdown. NAME.md, NAME.tex, NAME.csv, NAME.cells.json and,
    if a method ran, NAME.png and NAME.svg are written.

  Raises:
    UserError: If the description or a report does not fit, or matplotlib is
      missing.

  Example:

    print(make_tables("reports/tables/chain.toml", output="build"))
  """
  path = pathlib.Path(path)
  folder = path.parent if output is None else pathlib.Path(output)
  spec = table_spec.read(path)
  table = table_cells.fill(spec, table_reports.collect(spec))
  markdown = table_text.markdown(table)
  contents = {
    ".md": markdown.encode(),
    ".tex": table_text.latex(table).encode(),
    ".csv": table_text.csv_lines(table).encode(),
    ".cells.json": files.to_json(table_text.provenance(table)).encode(),
  }
  if spec.plot is not None and table.runs:
    contents |= table_plot.render(table)
  _write_all(
    {
      folder / f"{spec.name}{ending}": content
      for ending, content in contents.items()
    }
  )
  return markdown


def _write_all(contents: Mapping[pathlib.Path, bytes]) -> None:
  """Writes files of one folder; after any failure all are as before."""
  folder = next(iter(contents)).parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise UserError(
      f"{folder} is not a folder: give another one with --output"
    ) from None
  old = {}
  for path in contents:
    if path.is_dir():
      raise UserError(f"{path} is a folder: move it, or give another --output")
    old[path] = path.read_bytes() if path.exists() else None
  replaced = []
  try:
    for path, content in contents.items():
      partial = files.partial_path(path)
      with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    for path in contents:
      files.partial_path(path).replace(path)
      replaced.append(path)
  except BaseException:
    for path in replaced:
      had = old[path]
      if had is None:
        path.unlink()
      else:
        files.write_atomically(path, had)
    raise
  finally:
    for path in contents:
      files.partial_path(path).unlink(missing_ok=True)
