"""Each mistake in a configuration gives one line: what, where, how to fix."""

import dataclasses
import hashlib
import logging
import pathlib

import gin
import pytest

from cot_latent.configuration import parsing
from cot_latent.data import prompts
from cot_latent.data.source import Source
from cot_latent.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = "gin/runs/quickstart.gin"
HEAD = """\
from __gin__ import dynamic_registration
from cot_latent.training import experiment
"""


@pytest.fixture(autouse=True)
def _leave_no_configuration():
  yield
  gin.clear_config()


@pytest.fixture
def write(tmp_path):
  """Writes a file and gives its path as a flag would."""

  def write_file(name, content):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(raw)
    return str(path)

  return write_file


def parse(*gin_files, bindings=(), search_paths=()):
  return parsing.parse(gin_files, bindings, search_paths)[0]


def check_clear(message, *parts):
  """Checks that a message is one readable line with all its parts."""
  assert message == message.strip()
  assert len(message.splitlines()) == 1
  assert len(message) < 400
  for noise in (" at 0x", "site-packages", "<class", "<module", "codec"):
    assert noise not in message
  for part in parts:
    assert part in message


def refusal(*gin_files, bindings=(), search_paths=()):
  with pytest.raises(UserError) as caught:
    parse(*gin_files, bindings=bindings, search_paths=search_paths)
  return str(caught.value)


# What is wrong, and what its message must hold.
BINDINGS = [
  # Names.
  ("NOPE = 1", "--gin.NOPE=1: nothing uses the macro NOPE"),
  ("SEDE = 3", "--gin.SEDE=3:", "SEDE; did you mean SEED?"),
  ("a/SEED = 3", "--gin.a/SEED=3: nothing uses the macro a/SEED"),
  (
    "experiment.Experiment.sed = 3",
    "--gin.experiment.Experiment.sed=3: ",
    "experiment.Experiment has no parameter sed; did you mean seed?",
  ),
  (
    "experiment.Experimen.seed = 3",
    "there is no experiment.Experimen; did you mean experiment.Experiment?",
  ),
  ("trainer.steps = 3", "--gin.trainer.steps=3: there is no trainer; "),
  # Each scope has a learning rate of its own, so that this one would not count.
  (
    "experiment.OptimizerConfig.learning_rate = 0.8",
    "--gin.experiment.OptimizerConfig.learning_rate=0.8: nothing uses",
  ),
  (
    "metod/experiment.OptimizerConfig.b1 = 0.8",
    "--gin.metod/experiment.OptimizerConfig.b1=0.8: nothing uses the binding",
  ),
  ("MODEL = @nope.Model()", "--gin.MODEL=@nope.Model(): there is no"),
  ("SEED = %NOPE", "%NOPE has no value", "--gin.NOPE=..."),
  ("SEED = %SEDE", "%SEDE has no value", "did you mean SEED?"),
  # No value, or none that Python would read.
  ("SEED =", "--gin.SEED=: SEED has no value"),
  ("SEED", '--gin_bindings="SEED": ', "write NAME = VALUE"),
  ("= 3", '--gin_bindings="= 3": ', "write NAME = VALUE"),
  ("SEED = 1 + 2", "--gin.SEED=1 + 2: ", "VALUE is a Python literal"),
  ("SEED = 2**3", "--gin.SEED=2**3: ", "VALUE is a Python literal"),
  ("SEED = 3 4", "--gin.SEED=3 4: ", "VALUE is a Python literal"),
  ("SEED = [3", "--gin.SEED=[3: a bracket or a quote is not closed"),
  ("TASK = 'a", "--gin.TASK='a: Unable to parse value"),
  (
    "TASK = bbh_navigate",
    "bbh_navigate is not a value; a string needs quotes",
    "--gin.TASK=\"'bbh_navigate'\"",
  ),
  (
    "MODEL_DIR = runs/x",
    "runs/x is not a value",
    "--gin.MODEL_DIR=\"'runs/x'\"",
  ),
  ("MODEL_DIR = ~/x y", "~/x y is not a value", "--gin.MODEL_DIR=\"'~/x y'\""),
  ("SEED = %gin.REQUIRED", "SEED needs a value: --gin.SEED=..."),
  ("SEED = %SEED", "the value of SEED refers to itself"),
  # Wrong types.
  (
    "SEED = '3'",
    "--gin.SEED='3': Experiment.seed: expected int, got '3' (str)",
  ),
  ("SEED = True", "--gin.SEED=True: Experiment.seed: expected int, got True"),
  ("SEED = 1.5", "--gin.SEED=1.5: Experiment.seed: expected int, got 1.5"),
  ("SEED = None", "--gin.SEED=None: Experiment.seed: expected int, got None"),
  ("SEED = [1, 2]", "--gin.SEED=[1, 2]: Experiment.seed: expected int"),
  ("SEED = {'a': 1}", "--gin.SEED={'a': 1}: Experiment.seed: expected int"),
  ("TASK = 3", "--gin.TASK=3: Source.task: expected str, got 3 (int)"),
  ("DATA_DIR = 3", "--gin.DATA_DIR=3: Source.data_dir: expected str or None"),
  ("CACHE = True", "--gin.CACHE=True: Source.cache: expected str or None"),
  ("VOCABULARY = 3", "--gin.VOCABULARY=3: Source.vocabulary: expected str or"),
  (
    "PROMPTS = 'direct'",
    "--gin.PROMPTS='direct': Source.prompts: expected ",
    "Prompts or None, got 'direct' (str)",
  ),
  (
    "LEARNING_RATE = '0.1'",
    "--gin.LEARNING_RATE='0.1': OptimizerConfig.learning_rate: expected float",
  ),
  (
    "LEARNING_RATE = 1e999",
    "--gin.LEARNING_RATE=1e999: ",
    "expected float, got inf",
  ),
  ("MODEL = 3", "--gin.MODEL=3: Experiment.model: expected DecoderConfig"),
  (
    "MODEL = @decoder.DecoderConfig",
    "expected DecoderConfig",
    "write @DecoderConfig()",
  ),
  (
    "MODEL = @method.Method()",
    "expected DecoderConfig or T5Config or Given, got Method(",
  ),
  (
    "OVER_LONG = 'drop'",
    "--gin.OVER_LONG='drop': TaskConfig.over_long: expected one of 'error', "
    "'leave_out', 'truncate', got 'drop'",
  ),
  ("method.Method.estimator = 3", "Method.estimator: expected Callable"),
  (f"TASK = [{'1, ' * 999}]", "Source.task: expected str, got [1, 1,"),
  # Wrong sizes.
  (
    "TRAIN_STEPS = -1",
    "--gin.TRAIN_STEPS=-1: Experiment.steps = -1 must be at least 0",
  ),
  (
    "BATCH_SIZE = -4",
    "--gin.BATCH_SIZE=-4: Experiment.batch_size = -4 must be",
  ),
  ("LEARNING_RATE = 0", "--gin.LEARNING_RATE=0: OptimizerConfig.learning_rate"),
  ("NUM_VOTES = -1", "--gin.NUM_VOTES=-1: EvaluationConfig.num_samples"),
  ("SEED = -1", "--gin.SEED=-1: Experiment.seed"),
  ("SEED = 4294967296", "--gin.SEED=4294967296: Experiment.seed"),
  (
    "decoder.DecoderConfig.head_dim = 3",
    "DecoderConfig.head_dim = 3 must be even",
  ),
  # Statements.
  ("include 'nope.gin'", "--gin_bindings=\"include 'nope.gin'\": no file"),
  ("import nope", '--gin_bindings="import nope": No module named'),
]


@pytest.mark.parametrize(
  ("binding", "parts"), [(b, parts) for b, *parts in BINDINGS]
)
def test_refused_bindings(binding, parts):
  message = refusal(QUICKSTART, bindings=["NUM_VOTES = 0", binding])
  # What the user typed may be long itself.
  check_clear(message.replace("1, " * 999, "1, "), *parts)


# The text of a file that is read after the quickstart, and what the message
# about it must hold beside the file's name.
FILES = [
  (
    "SEED = 3\n\nTRAIN_STEPS = = 3\n",
    "line 3: cannot read 'TRAIN_STEPS = = 3'",
  ),
  ("SEED = 3\n\nTRAIN_STEPS 3\n", "line 3: cannot read 'TRAIN_STEPS 3'"),
  ("SEED = 3\n[ = 3\n", "line 2: cannot read '[ = 3'"),
  ("SEED = 3\nMODEL_DIR =\nX = 3\n", "line 2: MODEL_DIR has no value"),
  (
    "SEED = 3\nTASK = bbh_navigate\n",
    "line 2: bbh_navigate is not a value",
    "TASK = 'bbh_navigate'",
  ),
  ("\nMODEL_DIR = runs/x\n", "line 2: runs/x is not a value", "'runs/x'"),
  ("# one\nTASK = 'bbh\n", 'line 2: cannot read "TASK = \'bbh"'),
  ("SEED = [3\nX = 3\n", "line 2: cannot read 'X = 3' (Expected ',' or ']')"),
  ("TASK = '''bbh\n", "a bracket or a quote is not closed"),
  (HEAD + "experiment.Experiment:\nseed = 3\n", "line 4: ", "Expected indent"),
  (HEAD + "experiment.Experiment:\n  seed\n", "line 4: ", "Expected '='"),
  (
    HEAD + "experiment.Experiment:\n    seed = 3\n  steps = 3\n",
    "line 5: cannot read 'steps = 3' (unindent does not match",
  ),
  ("include nope.gin\n", "line 1: ", "write include 'FILE', in quotes"),
  ("# one\ninclude 'nope.gin'\n", "line 2: no file 'nope.gin'; looked in ., "),
  ("include '{folder}'\n", "line 1: ", " is a folder, not a gin file"),
  ("# one\nimport nope.nada\n", "line 2: No module named 'nope'"),
  (HEAD + "from nope import nada\n", "line 3: No module named 'nope'"),
  (
    HEAD + "from cot_latent.training import nada\n",
    "line 3: No module named 'cot_latent.training.nada'",
  ),
  ("import os\n" + HEAD, "line 2: ", "Dynamic registration should be enabled"),
  (
    "from __gin__ import dynamic_registration\nexperiment.Method.name = 'a'\n",
    "line 2: 'experiment' was not provided by an import statement",
  ),
  (
    HEAD + "experiment.Nada.seed = 3\n",
    "line 3: ",
    "cot_latent.training.experiment has no attribute Nada",
  ),
  (HEAD + "X = @experiment.Nada()\n", "line 3: ", "has no attribute Nada"),
  (
    HEAD + "experiment.Experiment:\n  seed = 3\n  sed = 3\n",
    "line 5: experiment.Experiment has no parameter sed; did you mean seed?",
  ),
  (
    HEAD + "experiment.Experiment = 3\n",
    "line 3: a binding is NAME = VALUE or",
  ),
  (
    "# one\nSEDE = 3\n",
    "line 2: nothing uses the macro SEDE; did you mean SEED?",
  ),
  (
    HEAD + "metod/experiment.OptimizerConfig.b1 = 0.8\n",
    "line 3: nothing uses the binding metod/",
  ),
  (
    "# one\nSEED = 'x'\n",
    "line 2, SEED: Experiment.seed: expected int, got 'x' (str)",
  ),
  (
    HEAD + "experiment.EvaluationConfig:\n  period = 1.5\n",
    "line 4: EvaluationConfig.period: expected int, got 1.5 (float)",
  ),
  (bytes(range(256)), ": not a text file in UTF-8"),
  ("SEED = 3\n".encode("utf-16"), ": not a text file in UTF-8"),
  (b"\x00\x01\x02", "line 1: cannot read"),
]


@pytest.mark.parametrize(
  ("text", "parts"), [(text, parts) for text, *parts in FILES]
)
def test_refused_files(write, tmp_path, text, parts):
  if isinstance(text, str):
    text = text.replace("{folder}", str(tmp_path))
  message = refusal(QUICKSTART, write("mine.gin", text))
  check_clear(message, "mine.gin", *parts)


def test_gin_alone_would_not_be_clear(write):
  # The broken twin: what gin says about some of the above.
  unclear = [
    write("unknown.gin", HEAD + "experiment.Nada.seed = 3\n"),
    write("binary.gin", bytes(range(256))),
    write("unquoted.gin", "TASK = bbh_navigate\n"),
  ]
  for name in unclear:
    gin.clear_config()
    with pytest.raises((AttributeError, ValueError, SyntaxError)) as caught:
      gin.parse_config_file(name)
    with pytest.raises(AssertionError):
      check_clear(str(caught.value))


def test_a_missing_file():
  message = refusal(QUICKSTART, "nope.gin")
  check_clear(message, "--gin_file=nope.gin: no file 'nope.gin'; looked in ., ")
  check_clear(refusal(""), "--gin_file=: no file ''")


def test_a_folder_is_no_file(tmp_path):
  check_clear(refusal("gin/runs"), "gin/runs is a folder, not a gin file")
  check_clear(refusal(str(tmp_path)), f"{tmp_path} is a folder")


@pytest.mark.parametrize("text", ["", "# only a comment\n", HEAD])
def test_a_file_without_experiment(write, text):
  message = refusal(write("empty.gin", text))
  check_clear(message, "no gin file describes the experiment", "gin/runs/")


def test_a_part_of_a_run_is_no_run():
  check_clear(refusal("gin/models/tiny.gin"), "describes the experiment")
  check_clear(refusal("gin/runs/common.gin"), " has no value", "--gin.")


def test_all_missing_values_are_named(write):
  later = write("r.gin", "TASK = %gin.REQUIRED\nDATA_DIR = %gin.REQUIRED\n")
  message = refusal(QUICKSTART, later)
  check_clear(
    message, "DATA_DIR, TASK need values: --gin.DATA_DIR=... --gin.TASK"
  )
  message = refusal(QUICKSTART, later, bindings=["TASK = 'chain'"])
  check_clear(message, "DATA_DIR needs a value: --gin.DATA_DIR=...")
  parse(QUICKSTART, later, bindings=["TASK = 'chain'", "DATA_DIR = 'd'"])


def test_a_field_without_value_is_named_with_its_scope(write):
  text = (
    "experiment.Experiment.optimizer = @other/experiment.OptimizerConfig()\n"
  )
  message = refusal(QUICKSTART, write("m.gin", HEAD + text))
  check_clear(message, "other/OptimizerConfig has no value for 'learning_rate'")


def test_files_that_include_one_another(write, tmp_path):
  own = write("own.gin", f"# one\ninclude '{tmp_path}/own.gin'\n")
  check_clear(refusal(own), "own.gin, line 2: a file includes itself")
  first = write("first.gin", f"include '{tmp_path}/second.gin'\n")
  write("second.gin", f"include '{first}'\n")
  check_clear(refusal(first), ".gin, line 1: a file includes itself")


def test_a_fault_is_placed_in_the_file_that_has_it(write):
  inner = write("inner.gin", "SEED = 3\nTASK = bbh\n")
  outer = write("outer.gin", f"# one\n# two\ninclude '{inner}'\n")
  check_clear(refusal(outer), f"{inner}, line 2: bbh is not a value")
  inner = write("inner.gin", "TASK = '''bbh\n")
  check_clear(refusal(outer), f"{inner}: a bracket or a quote is not closed")


def test_macros_in_a_circle(write):
  circle = write("c.gin", "SEED = %AA\nAA = %BB\nBB = %AA\n")
  check_clear(refusal(QUICKSTART, circle), "AA, BB, SEED refers to itself")


def test_a_value_is_traced_through_scopes_and_macros(write):
  rates = write("rates.gin", "BASE_LEARNING_RATE = %RATE\n\nRATE = -1\n")
  message = refusal(QUICKSTART, rates)
  place = f"{rates}, line 3, RATE: OptimizerConfig.learning_rate = -1"
  check_clear(message, place)
  # The same field in the other scope.
  message = refusal(
    QUICKSTART, rates, bindings=["LEARNING_RATE = -2", "RATE = 1"]
  )
  check_clear(
    message, "--gin.LEARNING_RATE=-2: OptimizerConfig.learning_rate = -2"
  )
  # The scope's own binding counts, not one for all scopes.
  everywhere = "experiment.OptimizerConfig.learning_rate = 0.5"
  message = refusal(QUICKSTART, rates, bindings=[everywhere])
  check_clear(message, place)
  # The last binding is the cause, not an earlier one.
  message = refusal(QUICKSTART, rates, bindings=["RATE = 1", "RATE = -3"])
  check_clear(message, "--gin.RATE=-3: OptimizerConfig.learning_rate = -3")


def test_the_last_word_wins(write):
  five, six = write("five.gin", "SEED = 5\n"), write("six.gin", "SEED = 6\n")
  assert parse(QUICKSTART, five, six).seed == 6
  assert parse(QUICKSTART, six, five).seed == 5
  bindings = ["SEED = 7", "SEED = 8"]
  assert parse(QUICKSTART, six, bindings=bindings).seed == 8
  bindings = ["experiment.Experiment.seed = 9"]
  assert parse(QUICKSTART, six, bindings=bindings).seed == 9
  assert parse(five, QUICKSTART).seed == parse(QUICKSTART).seed


def test_a_binding_may_hold_several_lines():
  made = parse(QUICKSTART, bindings=["SEED = 3\nBATCH_SIZE = 2"])
  assert (made.seed, made.batch_size) == (3, 2)
  message = refusal(QUICKSTART, bindings=["SEED = 3\nBATCH_SIZE = 0"])
  check_clear(message, "BATCH_SIZE = 0", "must be above 0")


@pytest.mark.parametrize("text", ["SEED = 5", "SEED = 5\r\nBATCH_SIZE = 2\r\n"])
def test_line_ends(write, text):
  assert parse(QUICKSTART, write("e.gin", text)).seed == 5


def test_files_are_looked_up_in_order(write, tmp_path, monkeypatch):
  for seed, folder in enumerate(["here", "one", "two"], start=5):
    write(f"{folder}/seed.gin", f"SEED = {seed}\n")
  write("two/only.gin", "SEED = 9\n")
  paths = [str(tmp_path / "one"), str(tmp_path / "two")]
  (tmp_path / "empty").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  assert parse(QUICKSTART, "seed.gin", search_paths=paths).seed == 5
  monkeypatch.chdir(tmp_path / "empty")
  assert parse(QUICKSTART, "seed.gin", search_paths=paths).seed == 6
  assert parse(QUICKSTART, "only.gin", search_paths=paths).seed == 9
  # A search path of an earlier call is forgotten.
  message = refusal(QUICKSTART, "seed.gin", search_paths=paths[1:][:0])
  check_clear(message, "no file 'seed.gin'; looked in ., ")
  assert message.count(str(ROOT)) == 1


def test_a_search_path_must_be_a_folder(write):
  for path in ("nope", write("file.gin", "SEED = 3\n")):
    message = refusal(QUICKSTART, search_paths=[path])
    check_clear(message, f"--gin_search_paths: no folder {path}")


def test_what_was_replaced_may_stay_unused(write, tmp_path, monkeypatch):
  # A parameter that a flag sets leaves the file's macro without a reader.
  parse(QUICKSTART, bindings=["experiment.Experiment.steps = 5"])
  # A flag without a reader is still a mistake.
  bindings = ["experiment.Experiment.steps = 5", "TRAIN_STEPS = 6"]
  message = refusal(QUICKSTART, bindings=bindings)
  check_clear(
    message, "--gin.TRAIN_STEPS=6: nothing uses the macro TRAIN_STEPS"
  )
  # Another class in place of a file's leaves its bindings.
  write(
    "wide.py",
    "from cot_latent.models import decoder\n"
    "class Wide(decoder.DecoderConfig):\n"
    "  def __init__(self, mlp_dim):\n"
    "    super().__init__(1, 8, 1, 8, mlp_dim)\n",
  )
  monkeypatch.syspath_prepend(tmp_path)
  wide = write(
    "wide.gin",
    "from __gin__ import dynamic_registration\nimport wide\n"
    "MODEL = @wide.Wide()\nwide.Wide.mlp_dim = 48\n",
  )
  assert parse(QUICKSTART, wide).model.mlp_dim == 48


def test_the_record_of_a_configuration(write):
  inner = write("inner.gin", "SEED = 5\n")
  outer = write("outer.gin", f"include '{QUICKSTART}'\ninclude '{inner}'\n")
  _, record = parsing.parse([outer], ["SEED = 6"], [])
  names = [file["path"] for file in record["gin_files"]]
  assert names[-2:] == [inner, outer]
  assert QUICKSTART in names
  assert "gin/runs/common.gin" in names
  for file in record["gin_files"]:
    path = ROOT / file["path"]  # an absolute path stays itself
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert record["bindings"] == ["SEED = 6"]
  assert "SEED = 6\n" in record["resolved"]
  assert "experiment.Experiment.seed = %SEED\n" in record["operative"]
  # Defaults are in what was used, not in what was asked for.
  assert "OptimizerConfig.b1 = " in record["operative"]
  assert "OptimizerConfig.b1 = " not in record["resolved"]


def test_calls_do_not_share_anything():
  before = parsing.parse([QUICKSTART], [], [])
  parse(QUICKSTART, bindings=["SEED = 5"])
  refusal(QUICKSTART, bindings=["TASK = 'chain'", "SEED = -1"])
  refusal("gin/models/tiny.gin")
  after = parsing.parse([QUICKSTART], [], [])
  assert after[1] == before[1]
  assert after[0].seed == before[0].seed
  assert logging.root.manager.disable == logging.NOTSET


def source_of(task=None, *gin_files, bindings=()):
  return parsing.parse_source(task, gin_files, bindings, [])


def test_a_source_alone():
  made = source_of("chain")
  assert made == Source("chain")
  made = source_of(
    None,
    "gin/prompts/few_shot.gin",
    bindings=[
      "TASK = 'gsm8k'",
      "DATA_DIR = 'data'",
      "VOCABULARY = 'v.model'",
      "TASK_MODULE = 'mine'",
      "CACHE = 'a.npz'",
      "prompts.Prompts.num_exemplars = 2",
    ],
  )
  assert made == Source(
    "gsm8k",
    module="mine",
    data_dir="data",
    prompts=prompts.Prompts(exemplars="task", num_exemplars=2),
    vocabulary="v.model",
    cache="a.npz",
  )


@pytest.mark.parametrize(
  "run", ["gin/runs/quickstart.gin", "gin/runs/bbh_tiny.gin"]
)
def test_a_source_from_a_run_is_that_of_the_run(run):
  # What the run leaves to its user, and what else it sets, is no matter.
  named = source_of("bbh_navigate", run, bindings=["DATA_DIR = 'd'"])
  assert named == Source("bbh_navigate", data_dir="d")
  bindings = ["TASK = 'bbh_navigate'", "DATA_DIR = 'd'"]
  files = [run, "gin/prompts/direct.gin"]
  made = parse(*files, bindings=bindings)
  assert source_of(None, *files, bindings=bindings) == made.task.source
  # The flag has the last word.
  again = source_of("chain", *files, bindings=bindings)
  assert again == dataclasses.replace(made.task.source, task="chain")


@pytest.mark.parametrize(
  ("binding", "parts"),
  [
    ("DATA_DRI = 'd'", ["nothing uses the macro DATA_DRI", "mean DATA_DIR?"]),
    ("SEED = 3", ["--gin.SEED=3: nothing uses the macro SEED"]),
    ("DATA_DIR = 3", ["--gin.DATA_DIR=3: Source.data_dir: expected str"]),
    ("DATA_DIR = d", ["d is not a value; a string needs quotes"]),
    ("source.Source.tsk = 'x'", ["has no parameter tsk", "mean task?"]),
  ],
)
def test_a_refused_source(binding, parts):
  with pytest.raises(UserError) as caught:
    source_of("chain", bindings=[binding])
  check_clear(str(caught.value), *parts)


def test_a_source_without_task():
  with pytest.raises(UserError) as caught:
    source_of(None)
  check_clear(str(caught.value), "TASK")


def test_prompts_that_cannot_work_are_placed(write):
  mine = write(
    "mine.gin",
    "from __gin__ import dynamic_registration\n"
    "from cot_latent.data import prompts\n"
    "PROMPTS = @prompts.Prompts()\n"
    "prompts.Prompts.prior = 'Question:\\n'\n",
  )
  message = refusal(QUICKSTART, mine)
  check_clear(message, "mine.gin, line 4: Prompts.prior = ", "field {question}")
