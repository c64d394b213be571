"""SeqIO registrations; importing a module here registers its tasks.

Each example of each task has the string fields `id`, `question`, `answer`,
`prior` and `guide` (the prompts) and the features `inputs` (the question's
prompt) and `targets` (rationale and answer). The task's postprocessor extracts
the answer from a completion, or returns None.
"""

from cot_latent.runtime import tf_startup

tf_startup.start_tensorflow()
