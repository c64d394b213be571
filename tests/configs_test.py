"""Every gin file says what it gives and needs, and every run is complete."""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import itertools
import pathlib
import re

import gin
import pytest
from gin import config_parser

from cot_latent import cli
from cot_latent.configuration import parsing
from cot_latent.data import chat, prompts
from cot_latent.em import plan
from cot_latent.errors import UserError
from cot_latent.training import experiment
from tests.asserts import faults
from tests.params import by_day

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "gin").rglob("*.gin"))
# A part that runs include; no run by itself.
FRAGMENTS = ["gin/runs/common.gin"]
RUNS = [
  name
  for name in FILES
  if name.startswith("gin/runs/") and name not in FRAGMENTS
]
METHODS = [name for name in FILES if name.startswith("gin/methods/")]
TASKS = [name for name in FILES if name.startswith("gin/tasks/")]
PLANS = [name for name in FILES if name.startswith("gin/plans/")]
PROMPTS = [name for name in FILES if name.startswith("gin/prompts/")]
BOOTSTRAPPED = "gin/prompts/bootstrapped.gin"
FEW_SHOT = "gin/prompts/few_shot.gin"
CHAT = "gin/prompts/chat.gin"  # needs a checkpoint's template
# Inside T5X, which tests/t5x reads them with; here they are read as texts.
IN_T5X = [name for name in FILES if name.startswith("gin/t5x/")]
OWN = [name for name in FILES if name not in IN_T5X]
# For what a run leaves to its user.
PLACEHOLDERS = {
  "TASK": "'bbh_navigate'",
  "MODEL_DIR": "'runs/x'",
}


class Names(config_parser.ParserDelegate):
  """Collects what a gin text refers to, without looking it up."""

  def __init__(self):
    self.macros = set()

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return f"@{scoped_configurable_name}"

  def macro(self, macro_name):
    self.macros.add(macro_name)
    return f"%{macro_name}"


@dataclasses.dataclass(frozen=True)
class GinText:
  """A gin file, read without gin's own looking up of names.

  Attributes:
    bound: Each binding's name and value, in order; a macro's name is bare.
    macros: What is referred to as %NAME.
    includes: The files.
    header: Section -> the macros that it names.
  """

  bound: list
  macros: set
  includes: list
  header: dict

  def values(self):
    return {n: v for n, v in self.bound if re.fullmatch("[A-Z_]+", n)}


def read_text(text):
  names = Names()
  bound, includes = [], []
  for statement in config_parser.ConfigParser(text, names):
    if isinstance(statement, config_parser.BindingStatement):
      scope, selector, parameter, value, _ = statement
      name = f"{scope}/{selector}" if scope else selector
      bound.append((f"{name}.{parameter}" if parameter else name, value))
    elif isinstance(statement, config_parser.IncludeStatement):
      includes.append(statement.filename)
  return GinText(bound, names.macros, includes, read_header(text))


# The macros that T5X's own files give and ask for; tests/t5x/gin_test.py
# compares that with the files.
NETWORK = (
  {
    *("Z_LOSS", "LABEL_SMOOTHING", "LOSS_NORMALIZING_FACTOR", "VOCABULARY"),
    *("OPTIMIZER", "MODEL"),
  },
  {"DROPOUT_RATE"},
)
SHARED = {
  *("USE_CACHED_TASKS", "BATCH_SIZE", "USE_HARDWARE_RNG", "RANDOM_SEED"),
  *("TRAIN_STEPS_RELATIVE", "MIXTURE_OR_TASK_MODULE"),
}
ASKED = {"MODEL", "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS"}
THEIRS = {
  "t5x/examples/t5/t5_1_1/base.gin": NETWORK,
  "t5x/examples/scalable_t5/t5_1_1/base.gin": NETWORK,
  "t5x/configs/runs/pretrain.gin": (
    SHARED | {"SHUFFLE_TRAIN_EXAMPLES"},
    ASKED | {"TRAIN_STEPS"},
  ),
  "t5x/configs/runs/finetune.gin": (
    SHARED
    | {"DROPOUT_RATE", "EVAL_STEPS", "EVAL_PERIOD", "JSON_WRITE_N_RESULTS"}
    | {"EVALUATOR_USE_MEMORY_CACHE", "EVALUATOR_NUM_EXAMPLES"},
    ASKED | {"TRAIN_STEPS", "INITIAL_CHECKPOINT_PATH"},
  ),
}


@functools.cache
def read(name):
  if name in THEIRS:
    given, asked = THEIRS[name]
    bound = [(macro, "something") for macro in sorted(given)]
    return GinText(bound, asked, [], {"Required": asked})
  return read_text((ROOT / name).read_text())


def read_header(text):
  """Reads sections such as `# Required: A, B.`, each up to its full stop."""
  lines = itertools.takewhile(lambda x: x.startswith("#"), text.splitlines())
  comment = "\n".join(line.removeprefix("#").strip() for line in lines)
  found = re.findall(
    r"^(Provides|Required|Commonly overridden): (.*?)\.$",
    comment,
    re.MULTILINE | re.DOTALL,
  )
  return {
    label: set(re.findall(r"\b[A-Z][A-Z_]+[A-Z]\b", names))
    for label, names in found
  }


def with_includes(name):
  """The names of a file and of all that it includes, in reading order."""
  inner = [with_includes(include) for include in read(name).includes]
  return [*itertools.chain(*inner), name]


def given_by(text):
  """The macros to which a file gives a value."""
  values = text.values().items()
  return {name for name, value in values if value != "%gin.REQUIRED"}


def check_header(text):
  """Checks that a header names all that a file gives, and all it needs.

  The header of an included file names what it provides, which may be named
  here as what is commonly overridden.
  """
  own = given_by(text)
  given = set(own)
  needed = text.values().keys() | text.macros - {"gin.REQUIRED"}
  for include in text.includes:
    for inner in map(read, with_includes(include)):
      needed |= inner.header.get("Required", set())
      given |= given_by(inner)
  # What an included file gives may be asked for again.
  given -= text.values().keys() - own
  assert text.header.get("Required", set()) == needed - given
  if "Provides" in text.header:
    overridden = text.header.get("Commonly overridden", set())
    assert (
      text.header["Provides"] <= own <= text.header["Provides"] | overridden
    )
    assert overridden <= given


def check_bound_once(text):
  names = [name for name, _ in text.bound]
  assert sorted(set(names)) == sorted(names)


def placeholders(run):
  required = read(run).header.get("Required", ())
  return [f"{name} = {PLACEHOLDERS[name]}" for name in sorted(required)]


@pytest.fixture(autouse=True)
def _leave_no_configuration():
  yield
  gin.clear_config()


def test_there_are_files_of_each_role():
  assert RUNS
  assert METHODS
  assert TASKS
  assert len(PROMPTS) >= 4
  assert "gin/runs/quickstart.gin" in RUNS
  assert "gin/t5x/trice_gsm8k.gin" in IN_T5X
  assert set(FRAGMENTS) <= set(FILES)


def test_nothing_shadows_gin():
  # With an __init__.py, `import gin` from the root would find this folder.
  assert not list((ROOT / "gin").rglob("*.py"))
  assert (ROOT / "gin") not in pathlib.Path(gin.__file__).parents


def check_own_header(name):
  lines = (ROOT / name).read_text().splitlines()
  assert re.fullmatch(r"# [A-Z].*", lines[0])
  assert "from __gin__ import dynamic_registration" in lines
  if not name.startswith(("gin/runs/", "gin/studies/", "gin/t5x/")):
    assert "Provides" in read(name).header
  check_header(read(name))


@pytest.mark.parametrize(
  "text",
  [
    "# Provides: ONE.\nTWO = 1\n",  # gives another thing
    "# Provides: ONE, TWO.\nONE = 1\n",  # gives less
    "# Provides: ONE.\nONE = 1\nTWO = 2\n",  # gives more
    "# Provides: ONE.\nONE = %TWO\n",  # needs something
    "# Required: TWO.\n# Provides: ONE.\nONE = 1\n",  # needs less
    "# Provides: ONE.\nONE = %gin.REQUIRED\n",  # needs what it should give
    "# Run.\ninclude 'gin/runs/common.gin'\n",  # needs what that needs
    # Names as its own what an included file gives, or what nothing gives.
    "# Required: TASK.\n# Provides: CACHE.\ninclude 'gin/tasks/common.gin'\n",
    "# Provides: ONE.\n# Commonly overridden: TWO.\nONE = 1\n",
  ],
)
def test_wrong_headers_are_rejected(text):
  with pytest.raises(AssertionError):
    check_header(read_text(text))


def test_correct_headers_are_accepted():
  check_header(
    read_text(
      "# A thing.\n#\n# Provides: ONE, TWO.\n# Required: THREE, such as 'x';\n"
      "#   FOUR.\n# Commonly overridden: FIVE (steps. No more).\n# Units.\n"
      "ONE = 1\nTWO = %THREE\nFOUR = %gin.REQUIRED\nFIVE = 5\n"
    )
  )
  check_header(
    read_text(
      "# A thing.\n#\n# Provides: TASK.\n# Commonly overridden: CACHE.\n"
      "include 'gin/tasks/common.gin'\nTASK = 'x'\n"
    )
  )


def check_what_is_commonly_overridden(name):
  texts = [read(inner) for inner in with_includes(name)]
  known = set().union(*(text.values().keys() | text.macros for text in texts))
  assert read(name).header.get("Commonly overridden", set()) <= known


def given_values(name):
  """Macros of a file and of all that it includes, the last value of each."""
  found = {}
  for inner in with_includes(name):
    found |= read(inner).values()
  return found


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_of_the_run_that_the_model_file_makes(name):
  planned = given_values(name)
  trained = given_values(name.replace("gin/plans/", "gin/models/"))
  both = planned.keys() & trained.keys() - {"BASE", "MODEL"}
  assert both == {"DTYPE", "PARAM_DTYPE", "REMAT"}
  assert {n: planned[n] for n in both} == {n: trained[n] for n in both}


def test_a_second_binding_is_rejected():
  check_bound_once(read_text("AAA = 1\nBBB = 1\n"))
  with pytest.raises(AssertionError):
    check_bound_once(read_text("AAA = 1\nBBB = 1\nAAA = 2\n"))
  with pytest.raises(AssertionError):
    check_bound_once(read_text("a.B.c = 1\na.B:\n  c = 2\n"))


def check_includes(name):
  known = set(FILES)  # by exact case
  if name in IN_T5X:
    known |= THEIRS.keys()
  assert set(read(name).includes) <= known
  text = (ROOT / name).read_text()
  # Gin's last binding wins, so one above an include might be undone by it.
  kinds = re.findall(r"^(include|[\w./]+ = |[\w./]+:$)", text, re.MULTILINE)
  assert "include" not in kinds[len(read(name).includes) :]


def check_imports(name):
  # Only what a file imports can be named in it, so parsing is enough.
  gin.clear_config()
  gin.add_config_file_search_path(str(ROOT))
  gin.parse_config_file(name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_as_it_should_be(name):
  with faults() as check:
    check(check_own_header, name)
    check(check_what_is_commonly_overridden, name)
    check(check_bound_once, read(name))
    check(check_includes, name)
    if name in OWN:
      check(check_imports, name)


def check_needs(run):
  given = placeholders(run)
  made, _ = parsing.parse([run], given, [])
  assert isinstance(made, experiment.Experiment)
  for left_out in given:
    others = [binding for binding in given if binding != left_out]
    with pytest.raises(UserError, match=left_out.split()[0]):
      parsing.parse([run], others, [])


def check_all_used(resolved, operative):
  """Checks that all that is bound is referred to and read."""
  asked, used = read_text(resolved), read_text(operative)
  assert set(asked.values()) <= asked.macros
  parameters = {name for name, _ in asked.bound} - asked.values().keys()
  assert parameters
  # What a macro calls is used within the macro's name as a scope.
  read_ones = [f"/{name}" for name, _ in used.bound]
  for parameter in parameters:
    assert any(name.endswith(f"/{parameter}") for name in read_ones)


def check_nothing_unused(run):
  _, record = parsing.parse([run], placeholders(run), [])
  resolved, operative = record["resolved"], record["operative"]
  check_all_used(resolved, operative)
  for dead in ("NOTHING_USES = 3\n", "a/experiment.Method.num_draws = 2\n"):
    with pytest.raises(AssertionError):
      check_all_used(resolved + dead, operative)


def check_resolved_text(run, tmp_path):
  made, record = parsing.parse([run], placeholders(run), [])
  path = tmp_path / "resolved.gin"
  path.write_text(record["resolved"])
  again, of_text = parsing.parse([str(path)], [], [])
  assert of_text["resolved"] == record["resolved"]
  assert of_text["operative"] == record["operative"]
  assert plan.as_dict(again) == plan.as_dict(made)


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_as_its_headers_say(run, tmp_path):
  with faults() as check:
    check(check_needs, run)
    check(check_nothing_unused, run)
    check(check_resolved_text, run, tmp_path)
    check(check_own_prompts, run)


# What a method's file sets besides the method, which the next one leaves be:
# files and bindings that do the same.
LEFT_OVER = {
  "gin/methods/direct.gin": (["gin/prompts/direct.gin"], []),
  "gin/methods/few_shot.gin": ([], ["TRAIN_STEPS = 0"]),
}


@functools.cache
def made_of(files, bindings=()):
  run = "gin/runs/quickstart.gin"
  return parsing.parse([run, *files], list(bindings), [])[0]


def check_replaces(before, method):
  """Checks that of two methods' files the later one has its way."""
  after = plan.as_dict(made_of((before, method)))
  assert after["method"] == plan.as_dict(made_of((method,)))["method"]
  files, bindings = LEFT_OVER.get(before, ([], []))
  expected = made_of((*files, method), tuple(bindings))
  assert after == plan.as_dict(expected)


@pytest.mark.parametrize(
  "method",
  by_day(METHODS, *(f"gin/methods/{name}.gin" for name in ("rloo", "star"))),
)
def test_a_method_has_its_name_and_replaces_all_others_wholly(method):
  with faults() as check:
    assert made_of((method,)).method.name == pathlib.Path(method).stem
    for before in METHODS:
      if before != method:
        check(check_replaces, before, method)


@pytest.mark.parametrize(
  ("before", "method", "line"),
  [
    ("star", "trice", "  loops = None\n"),
    ("trice_subsampled", "rloo", "  num_scored = None\n"),
    ("rest_em", "cot_supervised", "  num_draws = 1\n"),
    ("star", "rest_em", "  stop_loss = None\n"),
    ("cot_supervised", "rejection_sampling", "pooled = False\n"),
  ],
)
def test_a_method_that_leaves_a_setting_out_is_noticed(
  tmp_path, before, method, line
):
  text = (ROOT / f"gin/methods/{method}.gin").read_text()
  assert line in text
  twin = tmp_path / "twin.gin"
  # A binding's name and its value, or a line of a block.
  pattern = rf"^.*{re.escape(line)}" if line[0] != " " else re.escape(line)
  twin.write_text(re.sub(pattern, "", text, flags=re.MULTILINE))
  assert made_of((str(twin),)).method.name == method  # it is fit by itself
  with pytest.raises((AssertionError, UserError)):
    check_replaces(f"gin/methods/{before}.gin", str(twin))


# What each file of prompts sets, beside the defaults.
ASKED_FOR = {
  "zero_shot": {},
  "few_shot": {"exemplars": "task"},
  "bootstrapped": {"exemplars": "bootstrapped"},
  "chat": {},
  "direct": {"is_direct": True, "prior": "Question: {question}\nAnswer:\n"},
}


def with_prompts(run, name, *bindings):
  return parsing.parse([run, name], [*placeholders(run), *bindings], [])


@pytest.mark.parametrize("run", RUNS)
def test_prompts_after_a_run(run):
  with faults() as check:
    for name in PROMPTS:
      check(check_prompts, run, name)


def check_prompts(run, name):
  made, record = with_prompts(run, name)
  kind = chat.Chat if name == CHAT else prompts.Prompts
  wanted = kind(**ASKED_FOR[pathlib.Path(name).stem])
  assert made.task.source.prompts == wanted
  # The base model keeps its task's own, so that methods can share it.
  assert made.base.source.prompts is None
  check_all_used(record["resolved"], record["operative"])
  same, _ = with_prompts(run, name, "BASE_PROMPTS = %PROMPTS")
  assert same.base.source.prompts == wanted
  # A setting of theirs can be set from outside.
  if wanted.exemplars != "none":
    setting = "prompts.Prompts.num_exemplars = 1"
    made, _ = with_prompts(run, name, setting)
    assert made.task.source.prompts.num_exemplars == 1


def check_own_prompts(run):
  made, _ = parsing.parse([run], placeholders(run), [])
  assert made.task.source.prompts is None
  assert made.base.source.prompts is None


def test_prompts_before_a_run_would_be_lost():
  run = "gin/runs/quickstart.gin"
  made, _ = parsing.parse(["gin/prompts/direct.gin", run], [], [])
  assert made.task.source.prompts is None


def dry_run(capsys, *arguments):
  """Gives the exit status and what stands on the terminal."""
  status = cli.main(["train", "--dry_run", *arguments])
  return status, capsys.readouterr()


@pytest.mark.parametrize("name", by_day(PROMPTS, BOOTSTRAPPED))
def test_prompts_on_the_chain(name, capsys, tmp_path):
  status, shown = dry_run(
    capsys,
    "--gin_file=gin/runs/quickstart.gin",
    f"--gin_file={name}",
    "--gin.PROMPT_LENGTH=400",
    f"--gin.MODEL_DIR='{tmp_path}/run'",
  )
  if name == CHAT:  # tests/data/chat_test.py has checkpoints
    assert status == 2
    assert "needs a checkpoint with a tokenizer.json" in shown.err
    assert shown.err.count("\n") == 1
  elif name.endswith("/few_shot.gin"):  # it has no worked examples
    assert status == 2
    assert "task 'chain_v1' has no worked examples" in shown.err
    assert shown.err.count("\n") == 1
  else:
    assert status == 0, shown.err
    assert "scored, at most" in shown.out
    assert "left out" not in shown.out


@pytest.mark.parametrize(
  "name", by_day((name for name in PROMPTS if name != CHAT), FEW_SHOT)
)
def test_prompts_on_a_bbh_task(name, capsys, data_dir):
  status, shown = dry_run(
    capsys,
    "--gin_file=gin/runs/bbh_tiny.gin",
    f"--gin_file={name}",
    "--gin.TASK='bbh_boolean_expressions'",
    "--gin.BASE_TASK='synthetic_boolean_expressions'",
    f"--data_dir={data_dir}",
  )
  assert status == 0, shown.err
  assert "scored, at most" in shown.out
  # Of the base model's rationales alone some may be too long.
  assert " in train" not in shown.out
  assert " in test" not in shown.out


# A task for each file that leaves it open.
OPEN_TASKS = {
  "gin/tasks/bbh.gin": "bbh_algorithmic",
  "gin/tasks/synthetic.gin": "synthetic_navigate",
  "gin/tasks/common.gin": "chain",
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_in_a_run(name, tmp_path):
  path = tmp_path / "run.gin"
  parts = ["gin/models/tiny.gin", "gin/tasks/chain.gin", name]
  parts += ["gin/methods/trice.gin", "gin/runs/common.gin"]
  given = [f"include '{part}'" for part in parts]
  # What every run of this package gives.
  given += [f"{n} = 8" for n in ("TRAIN_STEPS", "BATCH_SIZE", "BASE_STEPS")]
  given += [f"{n} = 8" for n in ("BASE_BATCH_SIZE", "EVAL_PERIOD")]
  given += ["LEARNING_RATE = 0.1", "BASE_LEARNING_RATE = 0.1"]
  given += ["EVAL_BATCH_SIZE = 8", "MODEL_DIR = None"]
  path.write_text("\n".join(given) + "\n")
  bindings = ["CACHE = 'a.npz'", "VOCABULARY = 'v'", "TASK_MODULE = 'm'"]
  if name in OPEN_TASKS:
    bindings.append(f"TASK = '{OPEN_TASKS[name]}'")
  made, record = parsing.parse([str(path)], bindings, [])
  source, base = made.task.source, made.base.source
  assert source.task == OPEN_TASKS.get(name, pathlib.Path(name).stem)
  assert (source.cache, source.vocabulary) == ("a.npz", "v")
  assert (base.vocabulary, base.module, source.module) == ("v", "m", "m")
  # A cache holds one task; the base model reads it if that is its own.
  assert base.cache == (source.cache if base.task == source.task else None)
  check_all_used(record["resolved"], record["operative"])


def test_a_synthetic_task_in_a_run(tmp_path, capsys):
  path = tmp_path / "run.gin"
  path.write_text(
    "include 'gin/runs/quickstart.gin'\ninclude 'gin/tasks/synthetic.gin'\n"
  )
  status, shown = dry_run(
    capsys,
    f"--gin_file={path}",
    "--gin.TASK='synthetic_object_counting'",
    f"--gin.MODEL_DIR='{tmp_path}/run'",
  )
  assert status == 0, shown.err
  assert "left out" not in shown.out


def imported(name):
  """The modules that a gin file imports, by the names that it gives them."""
  statements = config_parser.ConfigParser((ROOT / name).read_text(), Names())
  return {
    statement.bound_name(): statement.module
    for statement in statements
    if isinstance(statement, config_parser.ImportStatement)
    and not statement.module.startswith("__gin__")
  }


def check_names(text, modules):
  """Checks that what a text inside T5X names, it imports, and the reverse."""
  named = {name.split("/")[-1] for name, _ in text.bound}
  for _, value in text.bound:
    named |= set(re.findall(r"@(?:\w+/)?([\w.]+)", str(value)))
  prefixes = {name.split(".")[0] for name in named if "." in name}
  assert prefixes - {"gin"} <= modules.keys()
  assert modules.keys() - prefixes <= {"chain"}  # which registers its task


def check_t5x_imports(name):
  modules = imported(name)
  check_names(read(name), modules)
  with pytest.raises(AssertionError):
    check_names(read(name), modules | {"unused": "unused"})
  for left_out in modules.keys() - {"chain"}:
    others = {k: v for k, v in modules.items() if k != left_out}
    with pytest.raises(AssertionError):
      check_names(read(name), others)


def own_parts(name):
  """What a file inside T5X names of this package: module, path, parameter."""
  modules = imported(name)
  for bound, value in read(name).bound:
    selector = bound.split("/")[-1]
    names = [selector] if "." in selector else []
    names += re.findall(r"@(?:\w+/)?([\w.]+)", str(value))
    for dotted in names:
      prefix, _, rest = dotted.partition(".")
      module = modules.get(prefix, "")
      if module.startswith("cot_latent.") and ".t5x" not in module:
        yield module, rest


def check_t5x_names(name):
  for module, rest in own_parts(name):
    thing, _, parameter = rest.partition(".")
    found = getattr(importlib.import_module(module), thing)
    if parameter:
      assert parameter in inspect.signature(found).parameters


@pytest.mark.parametrize("name", IN_T5X)
def test_a_file_inside_t5x_names_what_is_there(name):
  with faults() as check:
    check(check_t5x_imports, name)
    check(check_t5x_names, name)


def test_the_command_says_how_to_install_t5x(capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  for name in IN_T5X:
    is_run = read(name).includes and not name.endswith("_model.gin")
    if not is_run:
      continue
    assert cli.main(["train", f"--gin_file={name}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{name} needs T5X, which is not installed: docs/t5x.md" in error
  # The others stay with the embedded trainer.
  assert parsing.asks_for_t5x(["gin/t5x/trice_chain.gin"], [])
  for run in RUNS:
    assert not parsing.asks_for_t5x([run], [])
