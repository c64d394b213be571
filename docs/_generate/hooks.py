"""Adds to the site the pages that are generated, and those outside of docs/.

MkDocs calls the functions below (`hooks` in mkdocs.yml). Nothing here imports
JAX: the gin reference and the Python reference read the code as text.
"""

import pathlib
import posixpath
import re
import sys

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs._generate import (  # noqa: E402  (after the path)
  command_pages,
  gin_pages,
  report_pages,
)

# Files of the repository that are pages of the site.
PAGES = {
  "benchmarks/README.md": "results/benchmarks.md",
  "CHANGELOG.md": "project/changelog.md",
  "CONTRIBUTING.md": "project/contributing.md",
  "cot_latent/runtime/README.md": "project/runtime.md",
  "DESIGN.md": "project/design.md",
  "EXPERIMENTS.md": "results/experiments.md",
  "README.md": "index.md",  # which says the same in its own order
  "reports/README.md": "tables.md",
  "SECURITY.md": "project/security.md",
}
COPIED = {path: page for path, page in PAGES.items() if path != "README.md"}
EXAMPLES = {
  f"examples/{path.name}": f"examples/{path.stem}.md"
  for path in sorted((ROOT / "examples").glob("*.py"))
}
# A table that no run fills has no plot, and is not shown.
TABLES = [
  path
  for path in sorted((ROOT / "reports/tables").glob("*.md"))
  if path.with_suffix(".png").exists()
]
TABLE_PAGES = {f"reports/tables/{x.name}": "results/tables.md" for x in TABLES}
IMAGES = {"benchmarks/results/speed.png": "results/speed.png"} | {
  f"reports/tables/{path.stem}.png": f"results/{path.stem}.png"
  for path in TABLES
}
GENERATED = {
  "reference/gin.md": gin_pages.page,
  "reference/commands.md": command_pages.page,
  "reference/report.md": report_pages.schema_page,
  "reference/metrics.md": report_pages.metrics_page,
}
_LINK = re.compile(r"(?<!`)(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config) -> Files:
  """Adds the pages that have no file in docs/."""

  def add(uri: str, **content) -> None:
    files.append(File.generated(config, uri, **content))

  for path, uri in COPIED.items():
    add(uri, content=relink((ROOT / path).read_text(), path, uri))
  for path, uri in EXAMPLES.items():
    code = (ROOT / path).read_text()
    add(uri, content=f"# {path}\n\n```python\n{code}```\n")
  for path, uri in IMAGES.items():
    add(uri, abs_src_path=str(ROOT / path))
  for uri, make in GENERATED.items():
    add(uri, content=make(ROOT))
  add("results/tables.md", content="\n".join(map(_table, TABLES)))
  return files


def on_page_markdown(markdown: str, page, **_) -> str:
  """Has links that leave docs/ point to pages of the site."""
  path = pathlib.Path(page.file.abs_src_path or "")
  if not path.is_relative_to(ROOT / "docs"):
    return markdown
  return relink(markdown, path.relative_to(ROOT).as_posix(), page.file.src_uri)


def relink(text: str, path: str, uri: str) -> str:
  """Rewrites the links of a page for the place that it has on the site.

  Args:
    text: Markdown.
    path: Where the file is in the repository.
    uri: Where the page is on the site.

  Returns:
    The text. A link to another page of the site leads there. A link to any
    other file of the repository becomes its path. All other links stay, so
    that MkDocs finds those that are broken.
  """

  def rewrite(match: re.Match) -> str:
    image, label, link = match.groups()
    target, _, anchor = link.partition("#")
    if not target or ":" in target:
      return match[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    page = (PAGES | EXAMPLES | TABLE_PAGES | IMAGES).get(place)
    if page is None and place.startswith("docs/"):
      page = place.removeprefix("docs/")
    if page is None:
      exists = place and (ROOT / place).exists()
      return f"{label} (`{place}`)" if exists else match[0]
    found = posixpath.relpath(page, posixpath.dirname(uri) or ".")
    return f"{image}[{label}]({found}{'#' if anchor else ''}{anchor})"

  parts = _FENCE.split(text)
  parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
  return "".join(parts)


def _table(path: pathlib.Path) -> str:
  """A table of reports/tables with its plot, and how it was made."""
  text = path.read_text()
  return (
    f"{text}\n![{path.stem}: accuracy and cost]({path.stem}.png)\n\n"
    f"Made by `t5x tables reports/tables/{path.stem}.toml`.\n"
  )
