"""The commands of `t5x`: each has a file with its arguments and what it does.

A command is a module with `HELP`, `add_arguments(parser)` and `run(options)`,
which returns the exit status. Modules import what is heavy where they need it,
so that neither help nor a wrong argument starts JAX or TensorFlow.
"""
