"""A study runs every arm with every seed, and resumes where it stopped."""

import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from cot_latent import cli
from cot_latent.commands import gin_flags, study
from cot_latent.configuration import parsing
from cot_latent.data.open import open_task
from cot_latent.em import training_data
from cot_latent.em.plan import as_dict
from cot_latent.errors import UserError
from cot_latent.reporting import reading, record, seals
from cot_latent.reporting.tables.make import make_tables
from cot_latent.runtime import lock
from cot_latent.training import mstep
from tests import processes
from tests.models.hf.hub_configs import HUB
from tests.reporting import made_up
from tests.training.kills import act_at

pytestmark = pytest.mark.usefixtures("compile_once", "read_once")

COMMON = """
from __gin__ import dynamic_registration

include 'gin/models/tiny.gin'
include 'gin/tasks/chain.gin'
include 'gin/runs/common.gin'

TRAIN_STEPS = 2
BATCH_SIZE = 8
LEARNING_RATE = 2e-3
BASE_STEPS = 12
BASE_BATCH_SIZE = 8
BASE_LEARNING_RATE = 4e-3
EVAL_PERIOD = 2
EVAL_BATCH_SIZE = 200
NUM_VOTES = 0
CHECKPOINT_PERIOD = 1
"""
ARM = """
from __gin__ import dynamic_registration

include '{folder}/common.gin'
include 'gin/methods/{method}.gin'
"""
# Of a report, what no two runs of the same thing have in common.
VOLATILE = (
  *("identity", "code", "environment", "cost", "continuity"),
  *seals.SEALS,
)


def write_study(folder, methods=("few_shot", "rloo")):
  folder.mkdir(parents=True)
  (folder / "common.gin").write_text(COMMON)
  for method in methods:
    text = ARM.format(folder=folder, method=method)
    (folder / f"{method}.gin").write_text(text)
  return folder


def read_reports(output):
  """The reports by run, without times and places."""
  found = {}
  for path in sorted(output.glob("*/report.json")):
    report = json.loads(path.read_text())
    assert report["status"] in record.FINISHED
    kept = {k: v for k, v in report.items() if k not in VOLATILE}
    kept["parts"] = [p for p in kept["parts"] if p["path"] != "journal.jsonl"]
    del kept["configuration"]
    found[path.parent.name] = kept
  return found


STUDIES = pathlib.Path(__file__).parents[2] / "gin/studies"
ARMS = sorted(p for p in STUDIES.rglob("*.gin") if p.name != "common.gin")


def names(paths):
  return [f"{path.parent.name}-{path.stem}" for path in paths]


@pytest.mark.parametrize("path", ARMS, ids=names(ARMS))
def test_every_arm_is_a_whole_run_of_its_own_name(path, tmp_path):
  given = []
  if path.parent.name == "laptop_bbh":  # its checkpoint need not be installed
    config = json.dumps(HUB["llama3_2_1b"][0])
    (tmp_path / "config.json").write_text(config)
    given = [f"CHECKPOINT = {str(tmp_path)!r}"]
  runs = study.plan(str(path.parent), 2, "out", given)
  own = [run for run in runs if run.gin_files == [str(path)]]
  num_tasks = {"paper_bbh": 27, "laptop_bbh": 2}.get(path.parent.name, 1)
  assert len(own) == 2 * num_tasks
  for run in (own[0], own[num_tasks - 1]):
    config, _ = parsing.parse(run.gin_files, run.bindings, [])
    assert config.method.name == path.stem
    assert config.seed == 0
    assert config.model_dir == f"out/{run.name}"
    if num_tasks > 1:
      assert run.name == f"{path.stem}-{config.task.source.task}-s0"


CHAIN_ARMS = [path for path in ARMS if path.parent.name == "chain"]


@pytest.mark.parametrize("path", CHAIN_ARMS, ids=names(CHAIN_ARMS))
def test_the_chain_s_arms_differ_in_nothing_but_the_method(path):
  bindings = ["MODEL_DIR = 'x'", "SEED = 3"]
  config, _ = parsing.parse([str(path)], bindings, [])
  reference, _ = parsing.parse([str(path.with_name("trice.gin"))], bindings, [])
  same = ("model", "optimizer", "base", "evaluation", "seed")
  for name in same:
    assert getattr(config, name) == getattr(reference, name)
  if config.method.loops is None and config.steps:
    drawn = [
      c.steps * c.batch_size * c.method.num_draws for c in (config, reference)
    ]
    assert drawn[0] == drawn[1]


def parse_arm(name, **macros):
  bindings = [f"{key} = {value!r}" for key, value in macros.items()]
  path = STUDIES / f"{name}.gin"
  return parsing.parse([str(path)], ["MODEL_DIR = 'x'", *bindings], [])[0]


def arms_of(study_name, **macros):
  return {
    path.stem: parse_arm(f"{study_name}/{path.stem}", **macros)
    for path in ARMS
    if path.parent.name == study_name
  }


def sizes_of(configs):
  return {
    name: (config.steps, config.batch_size, config.method.num_draws)
    for name, config in configs.items()
  }


def test_the_papers_hyperparameters():
  """Phan et al. 2023, appendix F."""
  bbh = arms_of("paper_bbh", TASK="bbh_snarks")
  gsm8k = arms_of("paper_gsm8k")
  assert sizes_of(bbh) == {
    "trice": (500, 32, 1),
    "trice_basic": (500, 32, 1),
    "trice_few_shot": (500, 32, 1),
    "trice_basic_few_shot": (500, 32, 1),
    "rejection_sampling": (500, 8, 4),
    "star": (1032, 32, 1),
    "direct": (150, 16, 1),
  }
  assert sizes_of(gsm8k) == {
    "trice": (5000, 128, 1),
    "trice_basic": (5000, 128, 1),
    "trice_few_shot": (5000, 128, 1),
    "rejection_sampling": (5000, 32, 4),
    "star": (1032, 128, 1),
    "cot_supervised": (1000, 128, 1),
    "direct": (150, 16, 1),
  }
  for name, config in (bbh | gsm8k).items():
    assert config.evaluation.num_samples == 40, name
  assert bbh["trice"].method.memory_start == "guide"
  assert gsm8k["trice"].method.memory_start == "prior"
  assert gsm8k["trice"].method.num_scored == 128
  assert bbh["trice"].method.num_scored is None
  assert bbh["trice"].optimizer.decay_steps == 450
  assert bbh["trice"].optimizer.final_ratio == 0.1
  assert gsm8k["trice"].optimizer.final_ratio == 1.0
  # Ten loops.
  for config in (bbh["star"], gsm8k["star"]):
    assert config.method.loops.num_loops(config.steps) == 10
    assert config.method.loops.max_loops == 10
    assert config.optimizer.decay_steps is None
    assert config.optimizer.final_ratio == 0.1
  ratio = (
    gsm8k["rejection_sampling"].optimizer.learning_rate
    / gsm8k["trice"].optimizer.learning_rate
  )
  assert ratio == pytest.approx(0.1)
  assert gsm8k["trice"].optimizer.learning_rate == 1.0
  assert bbh["trice"].optimizer.learning_rate == 1.0
  for name, config in (bbh | gsm8k).items():
    assert config.optimizer.clip_norm is None, name
  for configs, number in ((bbh, 3), (gsm8k, 5)):
    for name, config in configs.items():
      kind = name if name == "direct" else "bootstrapped"
      if name.endswith("few_shot"):
        kind = "few_shot"
      prompts = config.tuning.source.prompts
      expected = "task" if configs is bbh else "train"
      if kind != "few_shot":
        expected = {"direct": "train"}.get(kind, kind)
      assert prompts.exemplars == expected, name
      assert prompts.num_exemplars == (3 if kind == "direct" else number), name
      assert prompts.is_direct == (kind == "direct")
      assert config.tuning.length == (64 if kind == "direct" else None)
      # Before the questions stands the soft prompt, and no example.
      own = config.task.source.prompts
      assert own is None or own.exemplars == "none"


def check_shared(arms):
  """Checks that arms share their base model and are evaluated alike."""
  like = arms["trice"]
  for name, config in arms.items():
    for part in ("model", "base", "evaluation"):
      assert getattr(config, part) == getattr(like, part), name
    for limit in ("prompt_length", "max_length", "over_long"):
      assert getattr(config.task, limit) == getattr(like.task, limit), name


def test_the_papers_arms_share_a_base_model():
  bbh = arms_of("paper_bbh", TASK="bbh_snarks")
  for arms in (bbh, arms_of("paper_gsm8k")):
    check_shared(arms)
  shorter = parse_arm("paper_bbh/direct", TASK="bbh_snarks", MAX_LENGTH=256)
  with pytest.raises(AssertionError, match="direct"):
    check_shared(bbh | {"direct": shorter})


def write_report(folder, config, task):
  """Writes the report that a run of an arm on a task might leave."""
  settings, steps = config.task, config.steps
  results = [
    made_up.result(steps, decoder, 150) | {"task": task}
    for decoder in ("greedy", "self_consistency")
  ]
  asked = settings.source.prompts
  report = made_up.make_report(
    config.method.name,
    data__task=task,
    data__splits__test__ids_sha256=made_up.sha(task),
    data__splits__test__fingerprint=made_up.sha(f"{task} {asked}"),
    configuration__experiment__task__max_length=settings.max_length,
    configuration__experiment__task__prompt_length=settings.prompt_length,
    configuration__experiment__evaluation__num_samples=(
      config.evaluation.num_samples
    ),
    plan__steps=steps,
    results=results,
  )
  made_up.write(folder / f"{config.method.name}-{task}-s0.json", report)


@pytest.mark.parametrize(
  ("table", "folder", "study_name"),
  [
    ("paper_table1", "bbh", "paper_bbh"),
    ("paper_table2", "gsm8k", "paper_gsm8k"),
    ("paper_table3", "bbh", "paper_bbh"),
  ],
)
@pytest.mark.slow
def test_the_papers_studies_fill_its_tables(
  tmp_path, table, folder, study_name
):
  runs = study.plan(str(STUDIES / study_name), 1, None, [])
  tasks = dict.fromkeys(
    json.loads(line.partition(" = ")[2].replace("'", '"'))
    for run in runs
    for line in run.bindings
    if line.startswith("TASK = ")
  ) or ["gsm8k"]
  macros = {"TASK": "bbh_snarks"} if folder == "bbh" else {}
  arms = arms_of(study_name, **macros)
  for config in arms.values():
    for task in tasks:
      write_report(tmp_path / folder, config, f"{task}_v1")
  spec = tmp_path / "tables" / f"{table}.toml"
  spec.parent.mkdir()
  source = made_up.ROOT / "reports/tables" / spec.name
  spec.write_text(source.read_text())
  text = make_tables(spec)
  assert "not run" not in text
  assert "75.0" in text
  shorter = parse_arm(f"{study_name}/direct", **macros, MAX_LENGTH=256)
  write_report(tmp_path / folder, shorter, f"{next(iter(tasks))}_v1")
  with pytest.raises(UserError, match="max_length is 256 and not"):
    make_tables(spec)


def test_a_dry_run_of_the_papers_study_prints_every_run(capsys):
  assert cli.main(["study", "gin/studies/paper_bbh", "--dry_run"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len({*lines}) == 27 * 7 * 5
  (line,) = [x for x in lines if "/star-bbh_snarks-s4" in x]
  assert "--gin.TASK='\"'\"'bbh_snarks'\"'\"''" in line


def dry_run(capsys, *flags):
  """The names of the runs."""
  status = cli.main(["study", "gin/studies/laptop_bbh", "--dry_run", *flags])
  shown = capsys.readouterr()
  found = re.findall(r"studies/laptop_bbh/([a-z_]+-[a-z_]+-s\d+)", shown.out)
  return status, [*dict.fromkeys(found)], shown.err


def test_a_part_of_a_study(capsys):
  whole = dry_run(capsys, "--seeds=3")[1]
  assert len(whole) == 3 * 9 * 2
  later = dry_run(capsys, "--seeds=2", "--first_seed=1")[1]
  assert later == whole[18:]
  some = dry_run(capsys, "--seeds=2", "--only=trice-bbh_object")[1]
  assert some == [f"trice-bbh_object_counting-s{seed}" for seed in (0, 1)]
  assert dry_run(capsys, "--only=comet") == (
    *(2, []),
    "t5x: error: --only=comet: no run has a name with it; --dry_run without "
    "--only prints all\n",
  )
  status, _, error = dry_run(capsys, "--first_seed=-1")
  assert status == 2
  assert "argument --first_seed: '-1' is not a number from 0 on" in error


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("SEED", "axes.toml cannot be read"),
    ("SEED = 3", "SEED must be a list of texts or whole numbers"),
    ("SEED = []", "SEED must be a list"),
    ("SEED = [1.5]", "SEED must be a list"),
    ("SEED = [1, 1]", "SEED has a value twice"),
    ("SEED = [1, 2]", "SEED is no axis, because a study sets it"),
    (
      "TASK = ['a']\n[b]\nSTOP = 'x'",
      r"\[b\] is not a value of an axis: use one",
    ),
    ("[b]\nSTOP = 'x'", r"\[b\] is not a value of an axis: use one of none"),
    (
      "TASK = ['a']\n[a]\nSTOP = ['x']",
      r"\[a\] STOP must be a text or a number",
    ),
    ("TASK = ['a']\n[a]\nTASK = 'x'", r"\[a\] TASK must be .* and no axis"),
    ("TASK = ['a']\n[a]\nSEED = 3", r"\[a\] SEED must be .* no axis, SEED,"),
  ],
)
def test_axes_that_are_no_axes(tmp_path, text, said):
  folder = write_study(tmp_path / "arms")
  (folder / "axes.toml").write_text(text)
  with pytest.raises(UserError, match=said):
    study.plan(str(folder), 1, None, [])


def test_a_finished_run_of_another_checkpoint_is_another(tmp_path, monkeypatch):
  """The header of a run has no hash of the weights to begin with."""
  folder = write_study(tmp_path / "arms", ["rloo"])
  (run,) = study.plan(str(folder), 1, str(tmp_path / "out"), [])
  config, _ = parsing.parse(run.gin_files, run.bindings, [])
  report = {"configuration": {"experiment": as_dict(config)}}
  report |= {"data": {}, "randomness": {}}
  asked = study._Finished([], open_task)
  monkeypatch.setattr(reading, "open_report", lambda path: None)
  monkeypatch.setattr(asked, "_describe_data", lambda *_: {})
  asked.check(run, report)
  report["configuration"]["experiment"]["base"]["start"] = {"path": "/other"}
  with pytest.raises(UserError, match="differs from the one asked for: conf"):
    asked.check(run, report)


def test_all_arms_may_have_another_file(tmp_path, capsys):
  folder = write_study(tmp_path / "arms", ["rloo"])
  other = "gin/methods/grpo.gin"
  assert (
    cli.main(["study", str(folder), f"--gin_file={other}", "--dry_run"]) == 0
  )
  (line, *_) = capsys.readouterr().out.splitlines()
  words = shlex.split(line)
  files = [x for x in words if x.startswith("--gin_file=")]
  assert files == [f"--gin_file={folder / 'rloo.gin'}", f"--gin_file={other}"]
  (run,) = study.plan(str(folder), 1, "out", [], [other])
  config, _ = parsing.parse(run.gin_files, run.bindings, [])
  assert config.method.name == "grpo"


def test_a_limit_is_a_slice_of_both_splits(tmp_path, capsys):
  folder = write_study(tmp_path / "arms", ["rloo"])
  other = ["study", str(folder), "--seeds=2", "--dry_run", "--limit=8"]
  assert cli.main(other) == 0
  for line in capsys.readouterr().out.splitlines():
    words = shlex.split(line)[1:]
    options = cli.parser().parse_args(gin_flags.rewrite(words))
    config, _ = parsing.parse(*gin_flags.collect(options))
    splits = (config.task.train_split, config.task.test_split)
    assert splits == ("train[:8]", "test[:8]")
  # Not of what an axis says already.
  (folder / "axes.toml").write_text("TRAIN_SPLIT = ['train', 'train[:9]']")
  assert cli.main(other) == 2
  assert "TRAIN_SPLIT is 'train[:9]'" in capsys.readouterr().err


def test_axes_are_combined(tmp_path):
  folder = write_study(tmp_path / "arms", ["rloo"])
  (folder / "axes.toml").write_text("BATCH_SIZE = [4, 8]\nTASK = ['a', 'b']")
  runs = study.plan(str(folder), 1, None, [])
  assert [run.name for run in runs] == [
    *("rloo-4-a-s0", "rloo-4-b-s0"),
    *("rloo-8-a-s0", "rloo-8-b-s0"),
  ]
  assert runs[1].bindings[:2] == ["BATCH_SIZE = 4", "TASK = 'b'"]


def test_values_are_folders_whatever_they_say(tmp_path):
  folder = write_study(tmp_path / "arms", ["rloo"])
  text = "TRAIN_SPLIT = ['train[:9]', 'train']\nCHECKPOINT = ['../a b', '..']"
  (folder / "axes.toml").write_text(text)
  runs = study.plan(str(folder), 1, str(tmp_path / "out"), [])
  assert [run.name for run in runs] == [
    *("rloo-train_9_-.._a_b-s0", "rloo-train_9_-..-s0"),
    *("rloo-train-.._a_b-s0", "rloo-train-..-s0"),
  ]
  assert {run.directory.parent for run in runs} == {tmp_path / "out"}


@pytest.mark.parametrize(
  ("arms", "text"),
  [
    (["rloo"], "TASK = ['a/b', 'a:b']"),
    (["rloo", "rloo-a"], "TASK = ['a-b', 'b']"),
  ],
)
def test_runs_of_one_name_are_refused(tmp_path, arms, text):
  folder = write_study(tmp_path / "arms", arms)
  (folder / "axes.toml").write_text(text)
  with pytest.raises(UserError, match=r"2 runs have the name rloo-a.b-s0: ren"):
    study.plan(str(folder), 1, None, [])


def test_a_value_has_settings_of_its_own(tmp_path):
  folder = write_study(tmp_path / "arms", ["rloo"])
  text = "TASK = ['a', 'b']\nBATCH_SIZE = [4, 8]\n[b]\nSTOP = 'x'\n[8]\nM = 1.5"
  (folder / "axes.toml").write_text(text)
  runs = study.plan(str(folder), 1, None, [])
  assert [run.name for run in runs] == [
    *("rloo-a-4-s0", "rloo-a-8-s0", "rloo-b-4-s0", "rloo-b-8-s0")
  ]
  assert [run.bindings[2:-3] for run in runs] == [
    *([], ["M = 1.5"], ["STOP = 'x'"], ["STOP = 'x'", "M = 1.5"])
  ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A study of two arms and two seeds that nothing disturbed."""
  root = tmp_path_factory.mktemp("study")
  folder, output = write_study(root / "arms"), root / "out"
  arguments = ["study", str(folder), "--seeds=2", f"--output={output}"]
  assert cli.main(arguments) == 0
  return folder, output


def test_every_arm_has_every_seed(finished):
  _, output = finished
  names = {f"{m}-s{seed}" for m in ("few_shot", "rloo") for seed in (0, 1)}
  reports = read_reports(output)
  assert set(reports) == names
  one, other = (reports[f"rloo-s{seed}"]["parts"] for seed in (0, 1))
  assert one != other  # the hashes of what was drawn
  # Arms of one seed share their base model.
  assert len(list((output / "base").glob("*.npz"))) == 2


def test_what_is_complete_is_left_alone(finished, capsys):
  folder, output = finished
  before = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
  arguments = ["study", str(folder), "--seeds=2", f"--output={output}"]
  assert cli.main(arguments) == 0
  out = capsys.readouterr().out
  assert "===" not in out
  assert "all 4 runs are complete" in out
  after = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
  assert before == after


def test_a_finished_run_whose_length_was_cut_is_known(tmp_path, capsys):
  """Its report has the length that worked examples give."""
  folder = write_study(tmp_path / "arms", ["few_shot"])
  arguments = [
    "study",
    str(folder),
    "--seeds=1",
    f"--output={tmp_path / 'out'}",
  ]
  arguments += ["--gin.MAX_LENGTH=64", "--gin.LENGTH_FACTOR=1.25"]
  for said in ("===", "all 1 runs are complete"):
    assert cli.main(arguments) == 0
    assert said in capsys.readouterr().out
  report = json.loads((tmp_path / "out/few_shot-s0/report.json").read_text())
  assert report["configuration"]["experiment"]["task"]["max_length"] < 64


def test_a_command_has_bindings_however_they_are_spaced():
  one = study.Run("x", ["a.gin"], ["STEPS=5", "SEED = 1"], pathlib.Path("x"))
  assert one.command([]).endswith(" --gin.STEPS=5 --gin.SEED=1")


@pytest.fixture
def kept(finished, tmp_path):
  """The study that is finished, in folders of its own."""
  folder, output = finished
  copied = tmp_path / "arms"
  shutil.copytree(folder, copied)
  for path in copied.glob("*.gin"):
    path.write_text(path.read_text().replace(str(folder), str(copied)))
  ignored = shutil.ignore_patterns("checkpoints", "base", "tensorboard")
  shutil.copytree(output, tmp_path / "out", ignore=ignored)
  return copied, tmp_path / "out"


def edit(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def test_runs_that_are_alike_share_what_they_compile(tmp_path, monkeypatch):
  folder, made = write_study(tmp_path / "arms", ["rloo"]), []
  compile_step = mstep.compile_step

  def noting(*arguments):
    made.append(compile_step(*arguments))
    return made[-1]

  monkeypatch.setattr(mstep, "compile_step", noting)
  arguments = ["study", str(folder), "--seeds=2", f"--output={tmp_path}/out"]
  assert cli.main([*arguments, "--gin.TRAIN_STEPS=1"]) == 0
  half = len(made) // 2  # of each seed
  assert half
  assert made[:half] == made[half:]


OTHERS = [
  (["--gin.TRAIN_STEPS=3"], "", "configuration steps was 0 there and is 3"),
  (["--gin.LEARNING_RATE=1e-3"], "", "optimizer.learning_rate was 0.002"),
  (["--gin.TRAIN_STEP=2"], "", "--gin.TRAIN_STEP=2: nothing uses the macro"),
  (["--gin_file=no.gin"], "", "--gin_file=no.gin: no file 'no.gin'"),
  ([], "NUM_DRAWS = 2", "method.num_draws was 4 there and is 2"),
  ([], "TASK = 'chain_hard'", "was 'chain' there and is 'chain_hard'"),
]


@pytest.mark.parametrize(("flags", "line", "said"), OTHERS)
def test_what_is_complete_must_be_what_is_asked_for(
  kept, capsys, tmp_path, flags, line, said
):
  folder, output = kept
  with (folder / "rloo.gin").open("a") as file:
    file.write(f"\n{line}\n")
  capsys.readouterr()
  arguments = ["study", str(folder), "--seeds=2", f"--output={output}"]
  collected = tmp_path / "kept"
  assert cli.main([*arguments, *flags, f"--collect={collected}"]) == 2
  text = capsys.readouterr().err
  assert said in text
  assert text.count("\n") == 1
  assert not collected.exists()


def test_complete_with_other_data_is_not_what_is_asked_for(
  kept, capsys, monkeypatch
):
  folder, output = kept
  arguments = ["study", str(folder), "--seeds=2", f"--output={output}"]
  assert cli.main(arguments) == 0
  asked = training_data.describe_splits

  def other(*given):
    described = asked(*given)
    described["splits"]["test"]["fingerprint"] = "0" * 64
    return described

  monkeypatch.setattr(training_data, "describe_splits", other)
  capsys.readouterr()
  assert cli.main(arguments) == 2
  assert "data splits.test.fingerprint was " in capsys.readouterr().err


def test_an_edited_report_is_not_complete(kept, capsys, tmp_path):
  folder, output = kept
  edit(output / "rloo-s1/report.json", '"method": "rloo"', '"method": "trice"')
  arguments = ["study", str(folder), "--seeds=2", f"--output={output}"]
  assert cli.main([*arguments, f"--collect={tmp_path / 'kept'}"]) == 2
  text = capsys.readouterr().err
  assert "rloo-s1/report.json: section identity was edited" in text
  assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_a_dry_run_prints_commands_that_do_the_same(finished, tmp_path, capsys):
  folder, output = finished
  elsewhere = tmp_path / "out"
  arguments = ["study", str(folder), "--seeds=2", f"--output={elsewhere}"]
  assert cli.main([*arguments, "--dry_run"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4
  assert not elsewhere.exists()
  (line,) = [line for line in lines if "rloo-s1" in line]
  command, *rest = shlex.split(line)
  assert command == "t5x"
  assert cli.main(rest) == 0
  assert read_reports(elsewhere)["rloo-s1"] == read_reports(output)["rloo-s1"]


def test_a_failing_arm_does_not_stop_the_others(tmp_path, capsys):
  folder = write_study(tmp_path / "arms", ["few_shot"])
  (folder / "bad.gin").write_text("NO_SUCH = 3\n")
  output = tmp_path / "out"
  arguments = ["study", str(folder), "--seeds=1", f"--output={output}"]
  assert cli.main(arguments) == 1
  text = capsys.readouterr().err
  assert "t5x: error: 1 of 2 runs failed, the first: bad-s0: " in text
  assert set(read_reports(output)) == {"few_shot-s0"}


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["no/such/folder"], "no/such/folder has no arms"),
    (["{empty}"], "has no arms"),
    (["{empty}", "--seeds=0"], "'0' is not a number above 0"),
  ],
)
def test_mistakes(arguments, said, tmp_path, capsys):
  filled = [text.format(empty=tmp_path) for text in arguments]
  assert cli.main(["study", *filled]) == 2
  text = capsys.readouterr().err
  assert said in text
  assert len(text.splitlines()) == 1


def test_reports_are_collected(finished, tmp_path):
  folder, output = finished
  runs = study.plan(str(folder), 2, str(output), [])
  study.collect(runs, tmp_path / "kept")
  kept = sorted((tmp_path / "kept").glob("*.json"))
  assert [path.stem for path in kept] == sorted(run.name for run in runs)
  for path in kept:
    report = json.loads(path.read_text())
    seals.check(report)
  with pytest.raises(UserError, match="few_shot-s2 has no report"):
    study.collect(study.plan(str(folder), 3, str(output), []), tmp_path / "x")


@pytest.mark.parametrize("place", [("after_e_step", 1), ("after_step", 2)])
@pytest.mark.slow
def test_a_study_that_is_asked_to_end_does(finished, tmp_path, capsys, place):
  """Even where a run's last step is over by then; the rest is made later."""
  folder, output = finished
  arguments = [
    "study",
    str(folder),
    "--seeds=2",
    f"--output={tmp_path / 'out'}",
  ]
  with pytest.MonkeyPatch.context() as patch:
    act_at(patch, place, lambda: signal.raise_signal(signal.SIGTERM))
    assert cli.main(arguments) == 143
  text = capsys.readouterr().err
  assert text.splitlines()[-1].startswith("t5x: error: ended by SIGTERM; the ")
  # The first run has no steps.
  report = json.loads((tmp_path / "out/rloo-s0/report.json").read_text())
  assert report["status"] == "interrupted"
  assert not (tmp_path / "out/few_shot-s1").exists()
  assert cli.main(arguments) == 0
  assert read_reports(tmp_path / "out") == read_reports(output)


def test_a_run_that_another_study_works_on_is_left_to_it(
  finished, tmp_path, capsys
):
  """What two studies in one folder come to, one of which is killed."""
  folder, output = finished
  elsewhere = tmp_path / "out"
  arguments = ["study", str(folder), "--seeds=1", f"--output={elsewhere}"]
  (elsewhere / "few_shot-s0").mkdir(parents=True)
  with lock.hold(elsewhere / "few_shot-s0"):  # by the study that is killed
    assert cli.main(arguments) == 1
  text = capsys.readouterr().err
  assert text.splitlines()[-1].startswith(
    "t5x: error: 1 of 2 runs failed, the first: few_shot-s0: MODEL_DIR "
    f"{elsewhere / 'few_shot-s0'} is in use by another process ("
  )
  assert "Traceback" not in text
  assert set(read_reports(elsewhere)) == {"rloo-s0"}
  assert cli.main(arguments) == 0
  wanted = read_reports(output)
  assert read_reports(elsewhere) == {
    name: wanted[name] for name in ("few_shot-s0", "rloo-s0")
  }


@pytest.mark.slow
def test_of_two_studies_in_a_folder_one_is_killed(finished, tmp_path):
  folder, output = finished
  elsewhere = tmp_path / "out"
  command = [
    *(sys.executable, "-m", "cot_latent.cli", "study", str(folder)),
    *("--seeds=2", f"--output={elsewhere}"),
  ]
  start = functools.partial(
    processes.start,
    command,
    cwd=pathlib.Path(__file__).parents[2],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  one, other = start(), start()
  time.sleep(25)
  one.kill()
  one.communicate()
  _, text = other.communicate(timeout=processes.LIMIT)
  assert other.returncode in (0, 1), text
  assert "Traceback" not in text
  again = start()
  _, text = again.communicate(timeout=processes.LIMIT)
  assert again.returncode == 0, text
  assert read_reports(elsewhere) == read_reports(output)


@pytest.mark.slow
def test_a_study_that_is_killed_ends_with_the_same_reports(finished, tmp_path):
  """Killed five times, at times that depend on the machine."""
  folder, output = finished
  elsewhere = tmp_path / "out"
  command = [
    *(sys.executable, "-m", "cot_latent.cli", "study", str(folder)),
    *("--seeds=2", f"--output={elsewhere}"),
  ]
  for seconds in (8, 12, 10, 15, 9):
    process = processes.start(
      command,
      cwd=pathlib.Path(__file__).parents[2],
      env=os.environ.copy(),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
  subprocess.run(
    command,
    cwd=pathlib.Path(__file__).parents[2],
    check=True,
    timeout=processes.LIMIT,
  )
  assert read_reports(elsewhere) == read_reports(output)
