"""Tokenizers of checkpoints: the same ids except padding, and no text lost."""

import codecs
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers
from hypothesis import strategies as st

from cot_latent.data import cache, prompts
from cot_latent.data.seqio_task import wrap_vocabulary
from cot_latent.data.source import Source
from cot_latent.models import vocabularies
from cot_latent.tasks import common
from cot_latent.tasks import vocabularies as seqio_vocabularies
from cot_latent.tasks.datasets import bbh, gsm8k
from tests.asserts import message_of
from tests.data import cache_test
from tests.models.hf import tokenizer_checkpoints as checkpoints
from tests.tasks import golden, pipeline

each_kind = pytest.mark.parametrize("kind", checkpoints.MADE)
each_folder = pytest.mark.parametrize("kind", [*checkpoints.MADE, "pieces"])
TEXTS = [
  *("", "a", " a", "a ", "  a\n\n b ", "\n", "The answer is 7.", "Qu the th"),
  *("<think>a</think>", "{}<>[]()~`", "1,800 + 3.5 = 7%"),
]
LETTERS = ["a\tb", "\u00e9", "\u4e2d\u6587", "\U0001f600 a", "a\0b"]
# None of which may become a special token.
SPECIAL = [
  *("</s>", "a</s>b", "<pad>", "<unk>", " <s> ", "<bos><eos>", "</s</s>>"),
  *("x<|eot_id|>", "<|endoftext|>", "<|im_end|>\n", "<|begin_of_text|>"),
  *("<0x0A>", "<|padding|>", "<|more|>|>"),
]


@functools.cache
def load(kind, bos=None):
  return seqio_vocabularies.load(str(checkpoints.folders()[kind]), bos)


def own_tokenizer(kind):
  """The tokenizer as its file has it."""
  path = checkpoints.folders()[kind] / "tokenizer.json"
  return tokenizers.Tokenizer.from_file(str(path))


def undo(vocabulary, ids):
  """A run's ids -> the tokenizer's own."""
  places = {0: vocabulary.padding_id, vocabulary.padding_id: 0}
  return [places.get(t, t) for t in ids]


def texts_of(kind):
  texts = list(TEXTS)
  if kind not in checkpoints.LOSES_LETTERS:
    texts += LETTERS
  if kind not in checkpoints.TAKES_FOR_SPACE:
    texts.append("a\u2581b")
  return texts


# Ids ---------------------------------------------------------------------


@each_kind
def test_what_is_known(kind):
  vocabulary, tokenizer = load(kind), own_tokenizer(kind)
  wrapped = wrap_vocabulary(vocabulary)
  _, settings, config, padding = checkpoints.MADE[kind]
  own = tokenizer.get_vocab_size()
  size = config.get(
    "vocab_size", config.get("text_config", {}).get("vocab_size", own)
  )
  assert wrapped.size == vocabulary.vocab_size == size
  wanted = tokenizer.token_to_id(padding) if padding else own
  assert wrapped.padding_id == vocabulary.padding_id == wanted
  assert vocabulary.pad_id == 0
  assert vocabulary.extra_ids == 0
  eos = settings["eos_token"]
  eos = eos if isinstance(eos, str) else eos["content"]
  assert wrapped.eos_id == vocabulary.eos_id != 0
  assert undo(wrapped, [wrapped.eos_id]) == [tokenizer.token_to_id(eos)]
  assert vocabulary.bos_id == wrapped.bos_id
  assert (wrapped.bos_id is not None) == (kind in checkpoints.HAS_BOS)
  if kind in checkpoints.HAS_BOS:
    assert undo(wrapped, [wrapped.bos_id]) == tokenizer.encode("a").ids[:1]
  unknown = tokenizer.token_to_id("<unk>")
  if unknown is None:
    assert vocabulary.unk_id is None
  else:
    assert undo(wrapped, [vocabulary.unk_id]) == [unknown]
  content = (checkpoints.folders()[kind] / "tokenizer.json").read_bytes()
  assert wrapped.model == content


def test_names_tell_what_was_used():
  vocabulary = wrap_vocabulary(load("llama_2"))
  content = (checkpoints.folders()["llama_2"] / "tokenizer.json").read_bytes()
  digest = hashlib.sha256(content).hexdigest()[:16]
  assert vocabulary.name == (
    f"HuggingFaceVocabulary(sha256 {digest}, EOS 2, BOS 1, padding 3)"
  )
  assert "BOS" not in wrap_vocabulary(load("llama_2", False)).name
  assert wrap_vocabulary(load("t5")).name.endswith(", EOS 1, padding 0)")


def check_ids(kind, encode):
  """Checks the ids against the tokenizer's own, padding aside."""
  vocabulary, tokenizer = load(kind), own_tokenizer(kind)
  for text in texts_of(kind):
    ids = encode(text)
    assert 0 not in ids
    asked = text
    if kind in checkpoints.PREPENDS:
      # It has a space of its own before each text, which counts for one here.
      if text.startswith(" ") or not text:
        continue
      ids = encode(f" {text}")
    wanted = tokenizer.encode(asked, add_special_tokens=False).ids
    assert undo(vocabulary, ids) == wanted


@each_kind
def test_ids_are_the_tokenizers_own_except_padding(kind):
  vocabulary = load(kind)
  check_ids(kind, vocabulary.encode)

  def to_the_next(text):
    """All ids make room."""
    return [t + 1 for t in undo(vocabulary, vocabulary.encode(text))]

  with pytest.raises(AssertionError):
    check_ids(kind, to_the_next)


def check_zero_in_use(vocabulary, encode):
  """Checks text of the token that has id 0 in its own tokenizer."""
  for text in ("!", "a!b", "!!"):
    ids = encode(text)
    assert 0 not in ids
    assert vocabulary.padding_id in ids
    assert vocabulary.decode(ids) == text


@pytest.mark.parametrize("kind", ["llama_3", "qwen", "bare", "opt"])
def test_text_of_the_token_with_id_0(kind):
  vocabulary = load(kind)
  assert own_tokenizer(kind).encode("!").ids[-1] == 0
  check_zero_in_use(vocabulary, vocabulary.encode)

  def without_a_swap(text):
    return undo(vocabulary, vocabulary.encode(text))

  with pytest.raises(AssertionError):
    check_zero_in_use(vocabulary, without_a_swap)


def test_transformers_has_the_same_ids(tmp_path):
  transformers = pytest.importorskip("transformers")
  for kind in checkpoints.MADE:
    folder, vocabulary = checkpoints.folders()[kind], load(kind)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert undo(vocabulary, [vocabulary.eos_id]) == [theirs.eos_token_id]
    for text in texts_of(kind):
      ids = vocabulary.encode(text)
      if kind in checkpoints.PREPENDS:
        if text.startswith(" ") or not text:
          continue
        ids = vocabulary.encode(f" {text}")
      ids = undo(vocabulary, ids)
      assert theirs.encode(text, add_special_tokens=False) == ids
    # A folder that they write has the same vocabulary.
    theirs.save_pretrained(tmp_path / kind)
    config = folder / "config.json"
    if config.exists():
      (tmp_path / kind / "config.json").write_bytes(config.read_bytes())
    again = seqio_vocabularies.load(str(tmp_path / kind))
    for name in ("vocab_size", "eos_id", "bos_id", "padding_id"):
      assert getattr(again, name) == getattr(vocabulary, name), (kind, name)
    for text in texts_of(kind):
      assert again.encode(text) == vocabulary.encode(text)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "llama_3")
  text = "Question: a b!\nAnswer:"
  ours = [load("llama_3").bos_id, *load("llama_3").encode(text)]
  assert theirs.encode(text) == undo(load("llama_3"), ours)


# Text --------------------------------------------------------------------


@each_folder
def test_no_text_is_lost(kind):
  vocabulary = load(kind)
  wrapped = wrap_vocabulary(vocabulary)
  for text in texts_of(kind):
    ids = wrapped.encode(text)
    assert ids == list(vocabulary.encode(text))
    assert wrapped.decode(ids) == vocabulary.decode(ids) == text


def check_joined(encode, decode):
  """Checks that a target after a prompt reads as it does by itself."""
  for prompt in ("Question: a\n", "a ", " a"):
    for target in ("The answer", " b", "\nc", ""):
      assert decode([*encode(prompt), *encode(target)]) == prompt + target


@each_folder
def test_no_space_is_put_between_prompt_and_target(kind):
  wrapped = wrap_vocabulary(load(kind))
  check_joined(wrapped.encode, wrapped.decode)


@pytest.mark.parametrize("kind", sorted(checkpoints.PREPENDS))
def test_the_tokenizer_itself_would_put_one(kind):
  tokenizer = own_tokenizer(kind)
  with pytest.raises(AssertionError):
    check_joined(
      lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
      lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
    )


@pytest.mark.parametrize("kind", sorted(set(checkpoints.MADE) - {"t5"}))
def test_any_text_survives(kind):
  wrapped = wrap_vocabulary(load(kind))

  @hypothesis.given(
    st.text("ab !{}<>|/s_\n\u00e9\u4e2d\U0001f600\0", max_size=12),
    st.text("ab !{}<>|/s_\n\u00e9", max_size=4),
  )
  def check(text, more):
    ids = [*wrapped.encode(text), *wrapped.encode(more)]
    assert 0 not in ids
    assert wrapped.decode(ids) == text + more
    (row,) = wrapped.decode_rows(np.array([[*ids, wrapped.eos_id, 5]]))
    assert row == text + more

  check()


def check_not_special(kind, encode):
  """Checks that what reads like a special token is made of other tokens."""
  vocabulary = load(kind)
  added = own_tokenizer(kind).get_added_tokens_decoder()
  special = {t for t, token in added.items() if token.special}
  for text in SPECIAL:
    ids = encode(text)
    assert not special.intersection(undo(vocabulary, ids))
    assert vocabulary.eos_id not in ids
    assert vocabulary.decode(ids) == text


@each_kind
def test_text_never_becomes_a_special_token(kind):
  vocabulary, tokenizer = load(kind), own_tokenizer(kind)
  check_not_special(kind, vocabulary.encode)

  def as_the_tokenizer_does(text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return undo(vocabulary, ids)

  with pytest.raises(AssertionError):
    check_not_special(kind, as_the_tokenizer_does)


def test_the_librarys_own_setting_is_not_enough():
  """Why `_Codec` cuts such texts: pieces of Unigram are special tokens."""
  tokenizer = own_tokenizer("t5")
  tokenizer.encode_special_tokens = True
  with pytest.raises(AssertionError):
    check_not_special("t5", lambda text: tokenizer.encode(text).ids[:-1])


def test_tokens_that_are_added_and_not_special_are_text():
  vocabulary, tokenizer = load("qwen"), own_tokenizer("qwen")
  think = tokenizer.token_to_id("<think>")
  assert vocabulary.encode("<think>")[0] == think
  assert vocabulary.decode([think]) == "<think>"


@each_folder
def test_any_ids_are_decoded(kind):
  """Special ones, those without a token and half letters among them."""
  vocabulary = load(kind)
  wrapped = wrap_vocabulary(vocabulary)
  rng = np.random.default_rng(0)
  rows = rng.integers(0, wrapped.size + 20, (40, 30))
  texts = wrapped.decode_rows(rows)
  for row, text in zip(rows.tolist(), texts, strict=True):
    assert vocabulary.decode(row) == text
  silent = [0, wrapped.size - 1 if wrapped.size > 380 else 0, wrapped.size + 9]
  ids = wrapped.encode("a b")
  if kind != "pieces":  # whose unknown token has a text, as in SeqIO
    assert wrapped.decode([*silent, *ids, wrapped.bos_id or 0]) == "a b"


def test_real_texts_survive(data_dir):
  folder = pathlib.Path(data_dir)
  texts = []
  for split in ("train", "test"):
    (path,) = (folder / "gsm8k").glob(f"{split}*.jsonl")
    for row in gsm8k.read_rows(path)[::14]:
      texts += [(row["question"][:9], row[n]) for n in ("question", "answer")]
  for task in bbh.TASKS:
    rows = bbh.read_rows(folder / "bbh" / "tasks" / f"{task}.json")
    for row in bbh.make_examples(task, rows, "test"):
      # The guide holds all of the question.
      texts.append((row["id"], prompts.PAPER.fill("guide", row)))
  assert len(texts) > 3000
  for kind in ("llama_3", "qwen", "gemma", "llama_2"):
    wrapped = wrap_vocabulary(load(kind))
    vocabularies.check_round_trip(wrapped.encode, wrapped.decode, texts, kind)
  # T5's own file has no token for a new line or a brace.
  wrapped = wrap_vocabulary(load("t5"))
  few = [(name, text) for name, text in texts if text.isascii()]
  vocabularies.check_round_trip(wrapped.encode, wrapped.decode, few, "t5")


def test_a_file_like_t5s_keeps_words(tmp_path):
  """Its spaces are Metaspace's, not lost between words."""
  folder = checkpoints.write(
    tmp_path, checkpoints.t5_of_words(), tokenizer_config={"eos_token": "</s>"}
  )
  vocabulary = seqio_vocabularies.load(str(folder))
  text = "The answer is abc"
  assert vocabulary.decode(vocabulary.encode(text)) == text
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  assert vocabulary.encode(f" {text}") == tokenizer.encode(text).ids


def test_what_a_training_script_left_is_not_used(tmp_path):
  made = checkpoints.llama_3()
  made.enable_truncation(max_length=3)
  made.enable_padding(length=50, pad_id=7)
  made.model.dropout = 0.9
  _, settings, _, _ = checkpoints.MADE["llama_3"]
  folder = checkpoints.write(tmp_path, made, tokenizer_config=settings)
  vocabulary = seqio_vocabularies.load(str(folder))
  for text in TEXTS:
    assert vocabulary.encode(text) == load("llama_3").encode(text)


# Of SeqIO ----------------------------------------------------------------


@each_folder
def test_tensorflow_encodes_and_decodes_the_same(kind):
  vocabulary = load(kind)
  texts = [text for text in texts_of(kind) if "\0" not in text]
  dataset = tf.data.Dataset.from_tensor_slices(texts).map(vocabulary.encode_tf)
  assert dataset.element_spec == tf.TensorSpec([None], tf.int32)
  for text, ids in zip(texts, dataset.as_numpy_iterator(), strict=True):
    assert ids.dtype == np.int32
    assert ids.tolist() == list(vocabulary.encode(text))
    assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text
  one, other = vocabulary.encode("a b"), vocabulary.encode("c d")
  rows = tf.constant([[*one, vocabulary.eos_id], [*other, vocabulary.eos_id]])
  if kind != "pieces":
    assert vocabulary.decode_tf(rows).numpy().tolist() == [b"a b", b"c d"]


def test_vocabularies_are_compared_by_content():
  path = str(checkpoints.folders()["llama_3"])
  one, other = seqio_vocabularies.load(path), seqio_vocabularies.load(path)
  file = seqio_vocabularies.load(f"{path}/tokenizer.json")
  assert one == other == file
  assert hash(one) == hash(other)
  assert str(one) == one.wrapped.name
  for changed in (
    load("qwen"),
    load("llama_3", False),
    seqio_vocabularies.BYTES,
  ):
    assert one != changed
  seqio.Feature(one)


# Tasks -------------------------------------------------------------------

ROWS = cache_test.ROWS
FEW_SHOT = prompts.Prompts(exemplars="task")


def open_toy(kind, **settings):
  path = str(checkpoints.folders()[kind])
  return cache_test.open_toy(source=Source("toy", vocabulary=path, **settings))


def check_bos(task):
  """Checks that prompts begin with BOS, once, and that targets have none."""
  bos_id = task.vocabulary.bos_id
  assert bos_id is not None
  for split in task.splits:
    rows = task.read(split)
    for row in [*rows.prompts, *rows.guides]:
      assert row[0] == bos_id
      assert row.tolist().count(bos_id) == 1
    for row in rows.targets:
      ends = [t for t in row.tolist() if t in (bos_id, task.vocabulary.eos_id)]
      assert ends == [task.vocabulary.eos_id]
      assert row[-1] == task.vocabulary.eos_id
  for tokens in (task.separator, task.lesson):
    assert bos_id not in tokens


def with_bos_on_each_part(task):
  """As a tokenizer's post-processor would have it."""
  rows = task.read("train")
  bos_id = task.vocabulary.bos_id
  targets = [np.insert(row, 0, bos_id) for row in rows.targets]
  return lambda split: rows._replace(targets=targets)


def with_bos_twice(task):
  rows = task.read("train")
  guides = [np.insert(row, 0, row[0]) for row in rows.guides]
  return lambda split: rows._replace(guides=guides)


def without_bos(task):
  rows = task.read("train")
  return lambda split: rows._replace(prompts=[row[1:] for row in rows.prompts])


@pytest.mark.parametrize(
  ("kind", "asked"),
  [
    *((kind, {}) for kind in sorted({*checkpoints.HAS_BOS, "pieces"})),
    ("llama_3", {"prompts": FEW_SHOT}),
    ("llama_3", {"prompts": prompts.DIRECT}),
    ("pieces", {"prompts": FEW_SHOT}),
    ("bare", {"bos": True}),
  ],
)
def test_prompts_begin_with_bos(kind, asked):
  task = open_toy(kind, **asked)
  check_bos(task)
  for broken in (with_bos_on_each_part, with_bos_twice, without_bos):
    with pytest.raises(AssertionError):
      check_bos(dataclasses.replace(task, read=broken(task)))
  assert task.vocabulary.decode(task.read("train").prompts[0].tolist()) == (
    asked.get("prompts", prompts.COMPACT).prefix(
      "prior", cache_test.EXEMPLARS if asked.get("prompts") == FEW_SHOT else []
    )
    + asked.get("prompts", prompts.COMPACT).fill("prior", ROWS["train"][0])
  )


@pytest.mark.parametrize(
  ("kind", "asked"),
  [("qwen", {}), ("bare", {}), ("llama_3", {"bos": False}), ("t5", {})],
)
def test_prompts_without_bos(kind, asked):
  rows = {
    split: [row for row in found if row["question"].isascii()]
    for split, found in ROWS.items()
  }
  path = str(checkpoints.folders()[kind])
  source = Source("toy", vocabulary=path, **asked)
  task = cache_test.open_toy(rows=rows, source=source)
  assert task.vocabulary.bos_id is None
  vocabulary = load(kind, asked.get("bos"))
  found = task.read("train")
  assert found.prompts[0].tolist() == vocabulary.encode("a??\n")
  assert found.guides[0].tolist() == vocabulary.encode("a?? (1)\n")


def check_prefixed(loaded, prefixed, bos_id, before):
  """Checks prompts with tokens before them."""
  for rows, found in (
    (loaded.prompts, prefixed.prompts),
    (loaded.guides, prefixed.guides),
  ):
    for row, longer in zip(rows, found, strict=True):
      alone = row[row != 0].tolist()
      assert alone[0] == bos_id
      assert longer[longer != 0].tolist() == [bos_id, *before, *alone[1:]]


def test_bos_stays_first_before_worked_examples():
  task = open_toy("llama_3")
  loaded = task.load("train", prompt_length=200)
  before = np.array([7, 8, 9], np.int32)
  prefixes = {"toy": before}
  bos_id = task.vocabulary.bos_id
  prefixed = loaded.with_prefix(prefixes, prefixes)
  check_prefixed(loaded, prefixed, bos_id, before.tolist())
  unaware = dataclasses.replace(loaded, bos_id=None)
  with pytest.raises(AssertionError):
    check_prefixed(
      loaded, unaware.with_prefix(prefixes, prefixes), bos_id, before.tolist()
    )


def test_bos_survives_truncation():
  task = open_toy("llama_3")
  bos_id, rows = task.vocabulary.bos_id, task.read("train")
  for length in (1, 2, 5, 200):
    loaded = task.load("train", prompt_length=length, over_long="truncate")
    for row, whole in zip(loaded.guides, rows.guides, strict=True):
      kept = row[row != 0].tolist()
      assert kept[0] == bos_id
      assert len(kept) == min(length, len(whole))
      assert kept[1:] == whole[1:][len(whole) - len(kept) :].tolist()


@each_folder
def test_a_task_through_a_cache_is_the_same(kind, tmp_path):
  rows = {"train": [ROWS["train"][0]], "test": ROWS["test"]}
  source = Source("toy", vocabulary=str(checkpoints.folders()[kind]))
  task = cache_test.open_toy(rows=rows, source=source)
  content, digest = cache.to_bytes(task)
  path = tmp_path / "task.npz"
  path.write_bytes(content)
  found = cache_test.reopen(task, path)
  cache_test.check_same(task, found)
  assert cache.to_bytes(found) == (content, digest)
  for text in (*TEXTS, *SPECIAL):
    assert task.vocabulary.encode(text) == found.vocabulary.encode(text)


def test_each_part_of_a_vocabulary_changes_the_fingerprint():
  task = open_toy("llama_3")
  seen = {cache.fingerprint(task)}
  for change in (
    {"bos_id": None},
    {"padding_id": 5},
    {"size": 999},
    {"eos_id": 5},
    {"name": task.vocabulary.name + "x"},
    {"model": task.vocabulary.model + b" "},
  ):
    vocabulary = dataclasses.replace(task.vocabulary, **change)
    seen.add(
      cache.fingerprint(dataclasses.replace(task, vocabulary=vocabulary))
    )
  assert len(seen) == 7


@pytest.mark.parametrize("kind", ["llama_3", "pieces", "bare"])
def test_a_cache_of_another_tokenizer(kind, tmp_path):
  task = open_toy(kind)
  path = cache_test.store(task, tmp_path / "toy.npz")
  folder = checkpoints.folders()[kind]
  assert cache_test.reopen(task, path, vocabulary=str(folder))
  other = checkpoints.folders()["qwen"]
  assert message_of(cache_test.reopen, task, path, vocabulary=str(other)) == (
    f"CACHE: {path} holds tokens of a {task.vocabulary.name}, not those of "
    "VOCABULARY; make another with `t5x cache`"
  )
  byt5 = tmp_path / "byt5"
  byt5.mkdir()
  (byt5 / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "ByT5Tokenizer"})
  )
  (byt5 / "config.json").write_text(json.dumps({"vocab_size": 384}))
  assert message_of(cache_test.reopen, task, path, vocabulary=str(byt5))
  # A folder of weights has nothing to compare.
  weights = tmp_path / "weights"
  weights.mkdir()
  (weights / "config.json").write_text("{}")
  assert cache_test.reopen(task, path, vocabulary=str(weights))


def test_a_cache_of_the_same_tokenizer_with_another_end(tmp_path):
  folder = tmp_path / "llama_3"
  shutil.copytree(checkpoints.folders()["llama_3"], folder)
  task = open_toy("llama_3")
  path = cache_test.store(task, tmp_path / "toy.npz")
  assert cache_test.reopen(task, path, vocabulary=str(folder))
  settings = folder / "tokenizer_config.json"
  content = json.loads(settings.read_text()) | {"eos_token": "<|eot_id|>"}
  settings.write_text(json.dumps(content))
  assert "not those of VOCABULARY" in message_of(
    cache_test.reopen, task, path, vocabulary=str(folder)
  )
  settings.write_text("{not json")
  assert f"{settings}" in message_of(
    cache_test.reopen, task, path, vocabulary=str(folder)
  )


def test_a_cache_of_pieces_with_or_without_their_folder(tmp_path):
  """The folder's have no space before a text."""
  folder = checkpoints.folders()["pieces"]
  (alone,) = (
    path
    for name in ("tokenizer.model", "spiece.model")
    if (path := folder / name).is_file()
  )
  tasks = {
    place: cache_test.open_toy(source=Source("toy", vocabulary=str(place)))
    for place in (folder, alone)
  }
  for place, task in tasks.items():
    path = cache_test.store(task, tmp_path / f"{place.name}.npz")
    for asked in tasks:
      if asked == place:
        assert cache_test.reopen(task, path, vocabulary=str(asked))
        continue
      assert "not those of VOCABULARY" in message_of(
        cache_test.reopen, task, path, vocabulary=str(asked)
      )


def test_a_cache_with_or_without_bos(tmp_path):
  for bos, said in ((True, "prompts with BOS"), (False, "prompts without BOS")):
    task = open_toy("llama_3", bos=bos)
    path = cache_test.store(task, tmp_path / f"{bos}.npz")
    assert cache_test.reopen(task, path, bos=bos)
    assert message_of(cache_test.reopen, task, path, bos=not bos) == (
      f"CACHE: {path} holds {said}; make another with `t5x cache`"
    )


DECODE = """
import json, sys
from cot_latent.data.open import open_task
from cot_latent.data.source import Source
task = open_task(Source("toy", cache=sys.argv[1]))
rows = task.load("train", prompt_length=99, target_length=99)
print(json.dumps(task.vocabulary.decode_rows(rows.targets)))
unwanted = {"seqio", "tensorflow", "transformers"}
print(json.dumps(sorted(unwanted & set(sys.modules))))
"""


def test_a_cache_decodes_without_seqio(tmp_path):
  path = cache_test.store(open_toy("llama_3"), tmp_path / "a.npz")
  done = subprocess.run(
    [sys.executable, "-c", DECODE, str(path)],
    cwd=golden.ROOT,
    env=os.environ,
    capture_output=True,
    check=True,
    text=True,
  )
  texts, loaded = map(json.loads, done.stdout.splitlines())
  assert texts == [row["targets"] for row in ROWS["train"]]
  assert loaded == []


def test_a_variant_for_t5x():
  path = str(checkpoints.folders()["llama_3"])
  name = common.variant("chain", "toy_llama", vocabulary=path)
  try:
    assert common.variant("chain", "toy_llama", vocabulary=path) == name
    dataset = seqio.TaskRegistry.get(name).get_dataset(
      {"inputs": 99, "targets": 99}, "test", shuffle=False
    )
    (row,) = dataset.take(1).as_numpy_iterator()
    vocabulary = load("llama_3")
    assert row["inputs"][0] == vocabulary.bos_id
    text = vocabulary.decode(row["inputs"].tolist())
    assert text == row["inputs_pretokenized"].decode()
    assert row["targets"][-1] == vocabulary.eos_id
  finally:
    seqio.TaskRegistry.remove(name)
    del common._VARIANTS[name]


# What is refused ---------------------------------------------------------


EOS = {"eos_token": "<|end_of_text|>"}


def save(folder, tokenizer=None, **contents):
  tokenizer = tokenizer or checkpoints.byte_level(checkpoints.LLAMA_3)
  return str(checkpoints.write(folder, tokenizer, **contents))


@pytest.mark.parametrize(
  ("contents", "said"),
  [
    ({}, "has no EOS: name an eos_token in tokenizer_config.json, or an"),
    (
      {"tokenizer_config": {"eos_token": "</s>"}},
      "has no token '</s>', its eos_token",
    ),
    (
      {"tokenizer_config": EOS, "config": {"vocab_size": 100}},
      "has ids up to 343, but config.json has a vocab_size of 100",
    ),
    (
      {"tokenizer_config": EOS, "config": {"vocab_size": 341}},
      "has EOS id 341, but config.json has a vocab_size of 341",
    ),
    (
      {"tokenizer_config": EOS | {"add_bos_token": True}},
      "prompts should begin with BOS, but tokenizer_config.json names no",
    ),
    ({"tokenizer_config": [1]}, "tokenizer_config.json: expected an object"),
    ({"tokenizer_config": EOS, "config": 7}, "config.json: expected an object"),
  ],
)
def test_folders_that_are_refused(contents, said, tmp_path):
  folder = save(tmp_path, **contents)
  text = message_of(seqio_vocabularies.load, folder)
  assert str(tmp_path) in text
  assert said in text


def test_nothing_to_pad_with(tmp_path):
  made = checkpoints.byte_level(["<|end_of_text|>"])
  folder = save(tmp_path, made, tokenizer_config=EOS)
  assert "has no token for padding: " in message_of(
    seqio_vocabularies.load, folder
  )
  # A pad_token that is text, or EOS itself, does not count.
  for pad in ("a", "<|end_of_text|>", "<none>"):
    save(tmp_path, made, tokenizer_config=EOS | {"pad_token": pad})
    message_of(seqio_vocabularies.load, folder)
  save(tmp_path, made, tokenizer_config=EOS, config={"vocab_size": 342})
  assert seqio_vocabularies.load(folder).padding_id == 341


def test_byte_order_marks(tmp_path):
  template = {"chat_template": "{{ messages[0].content }}"}
  folder = save(
    tmp_path,
    tokenizer_config=EOS,
    special_tokens_map=EOS,
    config={"vocab_size": 384},
    generation_config={"eos_token_id": [341, 342]},
    chat_template=template,
  )
  files = [*tmp_path.glob("*.json")]
  assert len(files) == 6
  (tmp_path / "chat_template.jinja").write_text(template["chat_template"])

  def read():
    found = seqio_vocabularies.load(folder).wrapped
    return found.encode("a b"), found.size, found.end_ids, found.chat

  expected = read()
  for path in (*files, tmp_path / "chat_template.jinja"):
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
  assert read() == expected


@pytest.mark.parametrize("place", ["config", "generation_config"])
@pytest.mark.parametrize("given", [341, [341, 342]])
def test_eos_of_the_models_own_files(place, given, tmp_path):
  folder = save(tmp_path, **{place: {"eos_token_id": given}})
  assert seqio_vocabularies.load(folder).eos_id == 341


def test_an_end_need_not_be_a_special_token(tmp_path):
  """As in `transformers`, which ends at every id of the list."""
  ids = [341, checkpoints.llama_3().token_to_id("a")]
  folder = save(tmp_path, generation_config={"eos_token_id": ids})
  found = seqio_vocabularies.load(folder).wrapped
  assert [undo(found, [end]) for end in found.end_ids] == [[ids[1]]]


def test_bos_of_the_post_processor(tmp_path):
  """And what tokenizer_config.json says of it goes before."""
  made = checkpoints.llama_3()
  for settings, asked, has_bos in (
    ({}, None, True),
    ({"add_bos_token": False}, None, False),
    ({"add_bos_token": False}, True, True),
    ({"add_bos_token": True}, False, False),
  ):
    folder = save(tmp_path, made, tokenizer_config=EOS | settings)
    found = seqio_vocabularies.load(folder, asked).bos_id
    assert found == (340 if has_bos else None)


def test_several_tokens_before_a_text(tmp_path):
  made = checkpoints.byte_level(checkpoints.LLAMA_3)
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single="<|begin_of_text|> <|more|> $A",
    special_tokens=[("<|begin_of_text|>", 340), ("<|more|>", 343)],
  )
  folder = save(tmp_path, made, tokenizer_config=EOS)
  text = message_of(seqio_vocabularies.load, folder)
  assert "puts 2 tokens before a text; only one, BOS, is supported" in text
  assert seqio_vocabularies.load(folder, False).bos_id is None


def test_a_decoder_that_puts_spaces_between_tokens(tmp_path):
  made = checkpoints.byte_level(checkpoints.LLAMA_3)
  made.decoder = None
  folder = save(tmp_path, made, tokenizer_config=EOS)
  assert "decodes tokens differently after other tokens" in message_of(
    seqio_vocabularies.load, folder
  )


@pytest.mark.parametrize(
  "content", [b"", b"{}", b"[]", b"{", b"\xff", b'{"model": {}}', b"[" * 99999]
)
def test_files_that_are_no_tokenizer(content, tmp_path):
  path = tmp_path / "tokenizer.json"
  path.write_bytes(content)
  for asked in (tmp_path, path):
    text = message_of(seqio_vocabularies.load, str(asked))
    assert text.startswith(f"VOCABULARY: {path} is not a tokenizer.json (")


def test_added_tokens_that_would_have_other_ids(tmp_path):
  folder = save(tmp_path, tokenizer_config=EOS)
  path = tmp_path / "tokenizer.json"
  content = json.loads(path.read_text())
  content["added_tokens"][-1]["id"] = 500
  path.write_text(json.dumps(content))
  assert message_of(seqio_vocabularies.load, folder) == (
    f"VOCABULARY: {path} is not a tokenizer.json (the added token '<|more|>' "
    "cannot have id 500)"
  )


def test_folders_without_a_tokenizer(tmp_path):
  assert message_of(seqio_vocabularies.load, str(tmp_path)) == (
    f"VOCABULARY: {tmp_path} has no tokenizer.json, tokenizer.model or "
    "spiece.model"
  )
  path = tmp_path / "none"
  said = f"VOCABULARY: there is no file {path}"
  assert message_of(seqio_vocabularies.load, str(path)) == said


def test_bos_where_there_can_be_none():
  path = pipeline.sentencepiece_models()["whole"]
  for asked, what in ((None, "bytes have"), (path, f"{path} has")):
    text = message_of(seqio_vocabularies.load, asked, True)
    assert text.startswith(f"Source.bos: {what} no BOS")
    assert seqio_vocabularies.load(asked, False) is not None


# SentencePiece -----------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_pieces_of_a_checkpoint(name, tmp_path):
  content = pipeline.train_sentencepiece(bos_id=3)
  (tmp_path / name).write_bytes(content)
  vocabulary = seqio_vocabularies.load(str(tmp_path))
  wrapped = wrap_vocabulary(vocabulary)
  assert (wrapped.size, wrapped.eos_id, wrapped.bos_id) == (450, 1, None)
  assert vocabulary.padding_id == wrapped.padding_id == 0
  digest = hashlib.sha256(content).hexdigest()[:16]
  assert wrapped.name == f"HuggingFacePieces(sha256 {digest})"
  # Those of the file, except the space before a text.
  plain = seqio_vocabularies.load(str(tmp_path / name))
  for text in ("The answer", "a", "a b"):
    assert vocabulary.encode(f" {text}") == plain.encode(text)
  checkpoints.write(tmp_path, config={"vocab_size": 512})
  vocabulary = seqio_vocabularies.load(str(tmp_path), True)
  wrapped = wrap_vocabulary(vocabulary)
  assert (wrapped.size, wrapped.bos_id) == (512, 3)
  assert wrapped.name == f"HuggingFacePieces(sha256 {digest}, BOS 3)"


def test_pieces_that_are_refused(tmp_path):
  path = tmp_path / "tokenizer.model"
  path.write_bytes(b"tiktoken, say")
  said = f"VOCABULARY: {path} is not a SentencePiece model ("
  assert message_of(seqio_vocabularies.load, str(tmp_path)).startswith(said)
  other = tmp_path / "llama_2"
  other.mkdir()
  path = other / "tokenizer.model"
  path.write_bytes(
    pipeline.train_sentencepiece(pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
  )
  assert message_of(seqio_vocabularies.load, str(other)) == (
    f"VOCABULARY: {path} has pad id -1 and EOS id 2; SeqIO needs 0 and 1 "
    "(spm_train --pad_id=0 --eos_id=1 --unk_id=2), or a tokenizer.json beside "
    "it"
  )
  third = tmp_path / "t5"
  third.mkdir()
  path = third / "spiece.model"
  path.write_bytes(pipeline.train_sentencepiece())
  text = message_of(seqio_vocabularies.load, str(third), True)
  assert text.endswith("prompts must begin with BOS, and it has none")
  checkpoints.write(third, config={"vocab_size": 9})
  assert message_of(seqio_vocabularies.load, str(third)) == (
    f"VOCABULARY: {path} has 450 pieces, and config.json a vocab_size of 9"
  )
