"""Takes the picture of docs/install.md: the page of reports/quickstart.

    python -m docs._generate.report_picture

Needs Chromium. The picture says which report it is of.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

from PIL import Image, PngImagePlugin

from cot_latent.reporting import page, record

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORT = ROOT / "reports/quickstart"
PICTURE = ROOT / "docs/report.png"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SIZE = "1200,1370"  # down to the second row of curves
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
_KEY = "Digest"  # of the text in the picture


def main() -> None:
  """Takes the picture."""
  browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
  if browser is None:
    sys.exit(f"needs a browser on PATH, one of: {', '.join(_BROWSERS)}")
  report = record.read_whole(REPORT)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    html, taken = folder / "report.html", folder / "report.png"
    html.write_text(page.render(report), encoding="utf-8")
    subprocess.run(
      [
        *(browser, *_FLAGS, f"--user-data-dir={folder / 'user'}"),
        *(f"--window-size={_SIZE}", f"--screenshot={taken}", html.as_uri()),
      ],
      check=True,
      capture_output=True,
      timeout=120,
    )
    note = PngImagePlugin.PngInfo()
    note.add_text(_KEY, report["digest"])
    with Image.open(taken) as image:
      image.save(PICTURE, pnginfo=note)
  print(f"{PICTURE.relative_to(ROOT)}: {report['identity']['run_id']}")


def digest_of(picture: pathlib.Path) -> str:
  """Reads which report a picture is of, by its digest."""
  with Image.open(picture) as image:
    return image.text[_KEY]


if __name__ == "__main__":
  main()
