"""What the command says and how it exits."""

import errno
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import pytest
import tensorflow as tf

import cot_latent
from cot_latent import cli
from cot_latent.configuration import parsing
from cot_latent.errors import UserError
from cot_latent.reporting import record
from cot_latent.runtime import files
from cot_latent.training import train
from tests.reporting import made_up

pytestmark = pytest.mark.usefixtures("read_once")

ROOT = pathlib.Path(__file__).parents[1]
QUICKSTART = "--gin_file=gin/runs/quickstart.gin"
# A small model and few steps, whatever the run's own numbers are.
SMALL = ["--gin.TRAIN_STEPS=2", "--gin.BASE_STEPS=3", "--gin.NUM_VOTES=2"]


@pytest.fixture(scope="module", autouse=True)
def _tensorflow_has_spoken():
  """Another test may have started it, whose notice comes when first used."""
  tf.config.list_physical_devices()


@pytest.fixture
def refused(capfd):
  """Runs the command and gives its one line about a mistake."""

  def run(*arguments):
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    check_one_line(err)
    return err.removeprefix("t5x: error: ").removesuffix("\n")

  return run


def check_one_line(err):
  """Checks that an error is one line, as everything that t5x refuses."""
  assert err.startswith("t5x: error: ")
  assert err.count("\n") == 1
  assert err.endswith("\n")


def run_python(*arguments, **kwargs):
  return subprocess.run(
    [sys.executable, *arguments],
    capture_output=True,
    text=True,
    timeout=120,
    **kwargs,
  )


def fail(error):
  def raise_it(*arguments):
    raise error

  return raise_it


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "the following arguments are required: COMMAND; see `t5x --help`"),
    (["trian"], "argument COMMAND: invalid choice: 'trian' (choose from"),
    (["train"], "no experiment: name one with --gin_file=FILE, such as"),
    (["train", "--gin_file"], "argument --gin_file: expected one argument"),
    (["train", "--gin_fle=a.gin"], "unrecognized arguments: --gin_fle=a.gin"),
    (["train", "--gin_fil=a.gin"], "unrecognized arguments: --gin_fil=a.gin"),
    (["train", QUICKSTART, "stray"], "unrecognized arguments: stray"),
    (["train", "--gin.SEED"], "--gin.SEED: write it as --gin.NAME=VALUE"),
    (["train", "--gin.=3"], "--gin.=3: write it as --gin.NAME=VALUE"),
    (["train", "--dry_run=maybe"], "--dry_run: 'maybe' is neither true nor"),
    (["train", "--gin_file=nope.gin"], "--gin_file=nope.gin: no file 'nope"),
    (["train", "--gin_file="], "--gin_file=: no file ''"),
    (["train", QUICKSTART, "--gin_search_paths=no"], "--gin_search_paths: no"),
    (["train", QUICKSTART, "--gin.SEDE=3"], "--gin.SEDE=3: nothing uses"),
    (["train", QUICKSTART, "--gin.SEED='x'"], "--gin.SEED='x': Experiment.se"),
    (["train", QUICKSTART, "--gin.SEED=x"], "--gin.SEED=x: x is not a value"),
    (["train", QUICKSTART, "--gin.SEED="], "--gin.SEED=: SEED has no value"),
    (
      ["train", QUICKSTART, "--gin_bindings", "SEDE = 3"],
      "--gin.SEDE=3: nothing uses the macro SEDE; did you mean SEED?",
    ),
    (["train", QUICKSTART, "--limit=0"], "'0' is not a number above 0"),
    (
      ["train", QUICKSTART, "--limit=5", "--gin.EVAL_SPLIT='test[5:]'"],
      "--limit=5: EVAL_SPLIT is 'test[5:]', a part of a split already",
    ),
    (
      ["train", "--gin_file=gin/t5x/trice_chain.gin", "--limit=5"],
      "EVALUATOR_NUM_EXAMPLES = 5",
    ),
    # The commands on a task.
    (["score", "o.jsonl"], "arguments are required: --task; see `t5x score"),
    (["score", "--task=chain"], "arguments are required: outputs; see"),
    (["cache", "--task=chain"], "arguments are required: --output; see"),
    (["cache", "--output=a.npz"], "arguments are required: --task; see"),
    (["tasks", "chain", "--examples=0"], "'0' is not a number above 0"),
    (["tasks", "chain", "--examples=-1"], "'-1' is not a number above 0"),
    (["tasks", "chain", "--examples=1.5"], "'1.5' is not a number above 0"),
    (["tasks", "chain", "--examples="], "'' is not a number above 0"),
    (["tasks", "chain", "stray"], "unrecognized arguments: stray"),
    (["tasks", "chain", "--data_dri=x"], "unrecognized arguments: --data_dri"),
    (["tasks", "--gin.DATA_DRI='x'"], "DATA_DRI; did you mean DATA_DIR?"),
    (["tasks", "--gin_file=nope.gin"], "--gin_file=nope.gin: no file 'nope"),
    (["cache", "--task=chain", "--output=a", "--gin.SEED=3"], "macro SEED"),
    # Only the data or the folder show these; a dry run looks at both.
    (
      ["train", QUICKSTART, "--dry_run", "--gin.TASK='nope'"],
      "no task 'nope' is registered",
    ),
    (
      ["train", QUICKSTART, "--dry_run", "--gin.MODEL_DIR='pyproject.toml'"],
      "pyproject.toml is a file, not a folder",
    ),
    (
      ["train", QUICKSTART, "--dry_run", "--gin.MODEL_DIR='gin'"],
      "MODEL_DIR gin is not empty and holds no report.json",
    ),
    (
      ["train", QUICKSTART, "--dry_run", "--gin.EVAL_SPLIT='test[:201]'"],
      "split 'test[:201]' of task 'chain_v1': it has only 200 examples",
    ),
  ],
)
def test_a_mistake_is_one_line_and_exits_with_2(refused, arguments, message):
  assert message in refused(*arguments)


def test_one_line_is_demanded():
  # What argparse and Python themselves would print.
  for err in (
    "usage: t5x [-h]\nt5x: error: no\n",
    "Traceback (most recent call last):\nValueError: no\n",
    "t5x: error: no",
  ):
    with pytest.raises(AssertionError):
      check_one_line(err)


@pytest.mark.parametrize(
  ("error", "status", "message"),
  [
    (UserError("this is wrong"), 2, "this is wrong"),
    (KeyboardInterrupt(), 130, "the same command resumes"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "'/x'"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/x"), 1, "'f/x'"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), 1, "too long"),
  ],
)
def test_exit_codes(capsys, monkeypatch, error, status, message):
  monkeypatch.setattr(parsing, "parse", fail(error))
  assert cli.main(["train", QUICKSTART]) == status
  out, err = capsys.readouterr()
  assert out == ""
  check_one_line(err)
  assert message in err


def test_a_full_disk_is_seen_through_another_error(capsys, monkeypatch):
  error = RuntimeError("could not save")
  error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
  monkeypatch.setattr(parsing, "parse", fail(error))
  assert cli.main(["train", QUICKSTART]) == 1
  assert "the disk is full" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
  monkeypatch.setattr(parsing, "parse", fail(ZeroDivisionError("bug")))
  with pytest.raises(ZeroDivisionError, match="bug"):
    cli.main(["train", QUICKSTART])


@pytest.fixture
def asked(monkeypatch):
  """Runs the command up to the configuration; gives what that is asked for."""

  def run(*arguments):
    seen = []
    monkeypatch.setattr(
      parsing, "parse", lambda *given: seen.append(given) or fail_parse()
    )
    assert cli.main(["train", *arguments]) == 2
    return seen[0]

  return run


def fail_parse():
  raise UserError("far enough")


def test_t5x_forms_of_the_flags(asked):
  files, bindings, paths = asked(
    "--gin_file=a.gin",
    "--gin_file",
    "b.gin",
    "--gin.SEED=3",
    "--gin_bindings=A = 'x=y'",
    "--gin_bindings",
    "B = 2",
    "--gin.method.Method.name='n=1'",
    "--gin_search_paths=one, two,",
  )
  assert files == ["a.gin", "b.gin"]
  assert bindings == [
    "SEED = 3",
    "A = 'x=y'",
    "B = 2",
    "method.Method.name = 'n=1'",
  ]
  assert paths == ["one", "two"]


def test_data_dir_is_a_binding(asked):
  # The last word, over the files and over another binding; any text goes.
  folder = "my data's"
  flags = [f"--data_dir={folder}", "--gin.DATA_DIR='other'"]
  _, bindings, _ = asked(QUICKSTART, *flags)
  assert bindings == ["DATA_DIR = 'other'", f"DATA_DIR = {folder!r}"]
  made = parsing.parse_source("chain", [], bindings, [])
  assert made.data_dir == folder


@pytest.mark.parametrize(
  ("flags", "is_dry"),
  [
    ([], False),
    (["--dry_run"], True),
    (["--dry_run=true"], True),
    (["--dry_run=T"], True),
    (["--dry_run=1"], True),
    (["--dry_run=False"], False),
    (["--dry_run=0"], False),
    (["--nodry_run"], False),
    (["--dry_run", "--nodry_run"], False),
    (["--nodry_run", "--dry_run"], True),
  ],
)
def test_dry_run_as_absl_writes_it(flags, is_dry):
  options = cli.parser().parse_args(["train", QUICKSTART, *flags])
  assert options.dry_run is is_dry


def test_without_dry_run_it_trains(capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)  # where there is no run yet
  monkeypatch.setattr(train, "train", fail(UserError("it would have run")))
  assert cli.main(["train", QUICKSTART, "--nodry_run"]) == 2
  assert "it would have run" in capsys.readouterr().err


def test_dry_run_shows_all_and_leaves_nothing(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  bindings = [*SMALL, "--gin.SEED=7", "--gin.BATCH_SIZE=5"]
  bindings += ["--gin.BASE_BATCH_SIZE=4", "--gin.EVAL_PERIOD=2"]
  bindings += ["--gin.MODEL_DIR='new/folder'"]
  assert cli.main(["train", QUICKSTART, "--dry_run", *bindings]) == 0
  out, err = capsys.readouterr()
  assert "t5x: error" not in err
  assert "SEED = 7\n" in out
  assert "experiment.Experiment.seed = %SEED\n" in out
  assert list(tmp_path.iterdir()) == []

  sampled, scored = plan_columns(out)
  # By hand: M = 5 questions per step with K = 1 draw, 2 steps, a greedy answer
  # and 2 votes for each held-out question before and after.
  num_train = sampled["memory start"]
  num_test = sampled["evaluation"] // (2 * (1 + 2))
  assert num_train > 5
  assert num_test > 0
  assert sampled["steps"] == 2 * 5
  assert sampled["base model"] == 0
  assert scored["base model"] == 3 * 4
  assert scored["steps"] == 2 * 5 * 2
  assert scored["memory start"] == scored["evaluation"] == 0
  assert sampled["all"] == sum(sampled.values()) - sampled["all"]
  assert scored["all"] == sum(scored.values()) - scored["all"]


def plan_columns(out):
  """Reads the plan: two dicts from row label to number."""
  columns: tuple[dict, dict] = ({}, {})
  for line in out[out.index("scored, at most") :].splitlines()[1:]:
    label, *numbers = line.rsplit(maxsplit=2)
    for column, number in zip(columns, numbers, strict=True):
      column[label] = int(number.replace(",", ""))
  return columns


def test_version(capsys):
  with pytest.raises(SystemExit) as left:
    cli.main(["--version"])
  assert left.value.code == 0
  assert capsys.readouterr().out == f"{cot_latent.__version__}\n"


@pytest.mark.parametrize(
  "arguments",
  [[], ["train"], ["study"], ["tasks"], ["score"], ["cache"]],
)
def test_help_tells_how_to_write_a_binding(capsys, arguments):
  with pytest.raises(SystemExit) as left:
    cli.main([*arguments, "--help"])
  assert left.value.code == 0
  out = capsys.readouterr().out
  assert "--gin.NAME=VALUE" in out
  assert "usage: t5x" in out
  (example,) = re.findall(r"--gin_file=(\S+)", out)
  assert (ROOT / example).is_file()


def test_help_is_fast():
  times = []
  for _ in range(3):
    began = time.perf_counter()
    done = run_python("-m", "cot_latent.cli", "--help")
    times.append(time.perf_counter() - began)
    assert done.returncode == 0
    assert "train" in done.stdout
    assert done.stderr == ""
  assert statistics.median(times) < 0.5


_HEAVY = ("jax", "tensorflow", "seqio", "flax", "numpy", "gin.config")


def started(code):
  """Names the heavy packages that are loaded after some code has run."""
  ask = f"import sys; print(*(set(sys.modules) & set({_HEAVY})))"
  done = run_python("-c", f"{code}\n{ask}")
  assert done.returncode == 0, done.stderr
  return set(done.stdout.splitlines()[-1].split())


def test_help_and_wrong_arguments_start_nothing_heavy():
  code = (
    "import contextlib\nfrom cot_latent import cli\n"
    "for command in cli.COMMANDS:\n"
    "  with contextlib.suppress(SystemExit): cli.main([command, '--help'])\n"
    "  assert cli.main([command, '--no_such_flag']) == 2"
  )
  assert started(code) == set()
  # The question does find what is loaded.
  assert started("import numpy") == {"numpy"}


def test_the_installed_command(tmp_path):
  # One process as a user starts it, from any folder: a mistake, and its line.
  done = subprocess.run(
    [
      pathlib.Path(sys.executable).with_name("t5x"),
      *("train", QUICKSTART, "--gin.SEED=bbh"),
    ],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    check=False,
  )
  assert done.returncode == 2
  assert done.stdout == ""
  check_one_line(done.stderr)
  assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_is_not_utf_8_gets_escapes(tmp_path):
  path = tmp_path / "über.json"
  report = made_up.make_report("trice", identity__run_id="rêve")
  path.write_text(files.to_json(record.sealed(report)))
  plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
  command = ["-m", "cot_latent.cli", "show"]
  done = run_python(*command, str(path), env=os.environ | plain)
  assert (done.returncode, done.stderr) == (0, "")
  assert "r\\xeave" in done.stdout
  done = run_python(*command, f"{path}é", env=os.environ | plain)
  assert done.returncode == 2
  check_one_line(done.stderr)
  assert "no report " in done.stderr


def test_who_stops_reading_gets_no_traceback():
  done = subprocess.run(
    f"{sys.executable} -m cot_latent.cli study gin/studies/paper_bbh --dry_run"
    " | head --lines=1; echo ${PIPESTATUS[0]}",
    shell=True,
    executable="/bin/bash",
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.stderr == ""
  line, status = done.stdout.splitlines()
  assert line.startswith("t5x train ")
  assert status == "141"
