"""Takes the picture of docs/install.md: the page of reports/quickstart.

    python -m docs._generate.report_picture

Needs Chromium. The picture says which report it is of.
"""

import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

from cot_latent.reporting import page, record

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORT = ROOT / "reports/quickstart"
PICTURE = ROOT / "docs/report.png"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SIZE = "1200,1370"  # down to the second row of curves
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
_KEY = b"Digest\0"  # of the text in the picture


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
    PICTURE.write_bytes(_with_digest(taken.read_bytes(), report["digest"]))
  print(f"{PICTURE.relative_to(ROOT)}: {report['identity']['run_id']}")


def digest_of(picture: bytes) -> str:
  """Reads which report a picture is of, by its digest."""
  start = picture.index(b"tEXt" + _KEY)
  (length,) = struct.unpack(">I", picture[start - 4 : start])
  return picture[start + 4 : start + 4 + length].removeprefix(_KEY).decode()


def _with_digest(picture: bytes, digest: str) -> bytes:
  """Adds a text to a PNG file, before its last chunk of 12 bytes."""
  chunk = b"tEXt" + _KEY + digest.encode()
  length = struct.pack(">I", len(chunk) - 4)
  check = struct.pack(">I", zlib.crc32(chunk))
  return picture[:-12] + length + chunk + check + picture[-12:]


if __name__ == "__main__":
  main()
