"""What the configuration of a report may import and call."""

import pathlib
import sys

import gin
import pytest

from cot_latent.configuration import parsing, trust
from cot_latent.errors import UserError

GIN = pathlib.Path(__file__).parents[2] / "gin"
PLACE = "there/report.json"
DYNAMIC = "from __gin__ import dynamic_registration\n"


@pytest.fixture
def trap(tmp_path, monkeypatch):
  """A module that writes a file when it is imported, and the file."""
  left = tmp_path / "left"
  code = f"import pathlib\npathlib.Path({str(left)!r}).touch()\n"
  code += "def spring(): pass\ndef name(): return 'trap'\n"
  (tmp_path / "trap.py").write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  yield left
  sys.modules.pop("trap", None)


def refusal(text, allowed=()):
  with pytest.raises(UserError) as raised:
    parsing.parse_resolved(text, allowed, PLACE)
  said = str(raised.value)
  assert "\n" not in said
  return said


def quickstart(*bindings):
  _, made = parsing.parse(["gin/runs/quickstart.gin"], bindings, [])
  return made["resolved"]


@pytest.mark.parametrize(
  "lines",
  [
    "import trap",
    "import trap as estimators",
    "import \\\n  trap",
    "from trap import spring",
    "A = '''\n'''\nimport trap",
    "TASK_MODULE = 'trap'",
    "TASK_MODULE/macro.value = 'trap'",
    "task/source.Source.module = 'trap'",
    "task/source.Source:\n  module = 'trap'",
    "MORE = 'trap'\ntask/source.Source.module = %MORE",
    "MORE = 'trap'\ntask/source.Source.module = @MORE/gin.macro()",
  ],
)
def test_a_module_of_someone_s_own_is_not_imported(trap, lines):
  text = f"{quickstart()}\n{lines}\n"
  said = refusal(text)
  assert said.startswith(f"{PLACE}: the configuration imports trap")
  assert ", whose code would run; " in said
  assert "add --allow_import=trap" in said
  assert not trap.exists()


def test_a_module_that_is_named_is_imported(trap):
  text = f"{quickstart()}\nimport trap\nSEED = 3\n"
  made, _ = parsing.parse_resolved(text, ["trap"], PLACE)
  assert made.seed == 3
  assert trap.exists()
  # Its name alone is allowed, and not what begins with it.
  assert "imports trapdoor" in refusal(f"{text}import trapdoor\n", ["trap"])


@pytest.mark.parametrize(
  "lines",
  [
    # What a module that may be imported has imported itself.
    "from cot_latent.runtime import files\nA = @files.os.system()",
    "from cot_latent.runtime import files\nA = @x/files.os.system",
    "from cot_latent.runtime import files\nfiles.os.system.command = 'true'",
    "from cot_latent.runtime import files\nfiles.os.system:\n  command = ''",
    "from cot_latent.runtime import files\nA = [{1: @files.os.system()}]",
    # What this package has for itself.
    "from cot_latent.runtime import files\nA = @files.write_atomically()",
    "import cot_latent\nA = @cot_latent.runtime.files.write_atomically()",
    "from cot_latent.reporting import environment\nA = @environment.git()",
    "from cot_latent.models.hf import weights\nA = @weights.save()",
    "A = @experiment.Experiment.__init__()",
    "A = @experiment.dataclasses.dataclass()",
    "import __main__ as script\nA = @script.main()",
    # Gin's own functions read files.
    "from gin import config\nA = @config.parse_config_file()",
  ],
)
def test_what_starts_programs_or_writes_files_is_not_called(lines):
  text = f"{quickstart()}\n{lines}\n"
  assert "which a report may not name" in refusal(text)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    (f"{DYNAMIC}include 'x.gin'", "includes 'x.gin'"),
    ("import seqio\nA = @seqio.Evaluator()", "without dynamic_registration"),
    (
      f"{DYNAMIC}from cot_latent.models import lora as m\n"
      "from cot_latent.inference import estimators as m",
      "imports two modules as m",
    ),
    (
      f"{DYNAMIC}from cot_latent.data import source\n"
      "from cot_latent.inference import estimators\n"
      "source.Source.module = @estimators.control_variate()",
      "lets estimators.control_variate name a module",
    ),
  ],
)
def test_what_no_run_records_is_refused(text, said):
  assert said in refusal(text)


def test_gin_s_singletons_are_fine():
  # Runs inside T5X have two.
  lines = (
    "from gin import config",
    "A = @one/config.singleton()",
    "one/config.singleton.constructor = @estimators.control_variate",
  )
  parsing.parse_resolved("\n".join((quickstart(), *lines)), (), PLACE)


def test_an_import_inside_a_text_is_no_import():
  text = quickstart() + '\nMODEL_DIR = """\nimport subprocess\n"""\n'
  made, _ = parsing.parse_resolved(text, (), PLACE)
  assert made.model_dir == "\nimport subprocess\n"


def test_what_gin_files_here_import_and_refer_to_is_fine():
  paths = sorted(GIN.rglob("*.gin"))
  assert len(paths) > 50
  for path in paths:
    lines = path.read_text(encoding="utf-8").splitlines()
    own = [line for line in lines if not line.startswith("include ")]
    text = "\n".join(own)
    if "dynamic_registration" not in text:
      text = DYNAMIC + text
    with gin.unlock_config():  # what they import may be imported first here
      trust.check(text, (), str(path))
