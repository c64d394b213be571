"""GSM8K: grade-school word problems with human rationales.

Reference: Cobbe et al. 2021; the target's form is that of Phan et al. 2023.
"""

from cot_latent.data.answers import forms as answer_forms
from cot_latent.tasks import common
from cot_latent.tasks.datasets import gsm8k, source

# Shows a model the tags if it is to write its own first rationales (Phan et al.
# 2023, appendix F).
_LESSON = {
  "question": "What is 1 plus 1?",
  "answer": "2",
  "targets": f"1 plus 1 is 2.\n{answer_forms.close('tag', '2')}",
}

common.register(
  "gsm8k_v1",
  lambda data_dir: source.make_source(
    gsm8k.Gsm8k.name, list(gsm8k.SPLITS), data_dir
  ),
  lambda: gsm8k.SPLITS,
  answer="integer",
  form="tag",
  rationale_splits=list(gsm8k.SPLITS),
  lesson=_LESSON,
)
