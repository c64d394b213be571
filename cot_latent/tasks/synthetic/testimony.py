"""Longer sentences of people who judge each other, for pretrained models.

`Ada speaks the truth. Bruno says that Ada is dishonest. Is Bruno honest?`

A step repeats what a person says of the one before, and judges the person:
`Bruno says liar: liar`. Such rationales are short, about 40 tokens, so that a
laptop can sample many.

Level: level + 2 people.
"""

import random

from cot_latent.tasks.synthetic import draw
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip
from cot_latent.tasks.synthetic.web_of_lies import Parts, guess

NAMES = (
  *("Ada", "Bruno", "Carla", "Dieter", "Emil", "Fatima", "Gustav", "Hanna"),
  *("Igor", "Johanna", "Kofi", "Ludmila", "Marcus", "Nadia", "Otto"),
  *("Patricia", "Quentin", "Rosalind", "Stefan", "Tatiana", "Ulrich"),
  *("Veronica", "Wolfgang", "Xenia", "Yasmin", "Zachary"),
)
_WORD = {True: "honest", False: "liar"}
# What is said of honest people, of dishonest people, and the question.
_WORDINGS = (
  ("is honest", "is dishonest", "Is {name} honest?"),
  ("speaks the truth", "speaks untruths", "Does {name} speak the truth?"),
  ("can be trusted", "cannot be trusted", "Can {name} be trusted?"),
  ("is sincere", "makes things up", "Is {name} sincere?"),
)
_SAYS = ("says", "says that", "claims that", "thinks that")


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws the people, the wording, and what they say."""
  *words, question = draw.choice(rng, _WORDINGS)
  says = draw.choice(rng, _SAYS)
  names = draw.sample(rng, NAMES, level + 2)
  claims = [rng.random() < 0.5 for _ in names]
  sentences = [f"{names[0]} {words[not claims[0]]}."]
  for about, name, claim in zip(names, names[1:], claims[1:], strict=False):
    sentences.append(f"{name} {says} {about} {words[not claim]}.")
  sentences.append(question.format(name=names[-1]))
  return Problem(" ".join(sentences), Parts(names, claims))


def solve(parts: Parts, slip: Slip) -> tuple[list[str], str]:
  """Judges each person in order; a slip judges incorrectly."""
  names, claims = parts
  is_honest = slip(claims[0], (not claims[0],))
  steps = [f"{names[0]}: {_WORD[is_honest]}"]
  for name, claim in zip(names[1:], claims[1:], strict=True):
    correct = is_honest == claim
    is_honest = slip(correct, (not correct,))
    steps.append(f"{name} says {_WORD[claim]}: {_WORD[is_honest]}")
  return steps, "Yes" if is_honest else "No"


KIND = Kind("testimony", ("Yes", "No"), make_problem, solve, guess)
