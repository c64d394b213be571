"""`t5x tables` prints the table, or one line about what is wrong."""

import subprocess
import sys

from cot_latent import cli
from cot_latent.reporting.tables.make import make_tables
from tests.reporting import made_up


def test_the_table_is_printed(tmp_path, capfd):
  path = made_up.write_case(tmp_path)
  assert cli.main(["tables", str(path)]) == 0
  out, err = capfd.readouterr()
  assert out == (tmp_path / "chain.md").read_text() == make_tables(path)
  assert err == ""


def test_another_folder(tmp_path, capfd):
  path = made_up.write_case(tmp_path)
  assert cli.main(["tables", str(path), f"--output={tmp_path / 'out'}"]) == 0
  assert (tmp_path / "out/chain.png").is_file()
  assert not (tmp_path / "chain.png").exists()
  assert capfd.readouterr().out


def check_refused(capfd, arguments, message):
  assert cli.main(arguments) == 2
  out, err = capfd.readouterr()
  assert out == ""
  assert err.startswith("t5x: error: ")
  assert err.count("\n") == 1
  assert message in err


def test_mistakes(tmp_path, capfd):
  check_refused(capfd, ["tables"], "arguments are required: spec; see")
  check_refused(capfd, ["tables", "no.toml"], "no file no.toml: give a table's")
  path = made_up.write_case(tmp_path, methods=["trice_basic"])
  check_refused(capfd, ["tables", str(path)], "row 'trice': ")
  # It reads no gin file.
  arguments = ["tables", str(path), "--gin_file=a.gin"]
  check_refused(capfd, arguments, "unrecognized arguments: --gin_file=a.gin")


def test_neither_jax_nor_tensorflow_is_started(tmp_path):
  path = made_up.write_case(tmp_path)
  code = (
    "import sys; from cot_latent import cli; "
    f"status = cli.main(['tables', {str(path)!r}]); "
    "print(status, {'jax', 'tensorflow', 'seqio'} & {*sys.modules})"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.endswith("\n0 set()\n")
