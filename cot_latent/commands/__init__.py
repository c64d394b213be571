"""The commands of `t5x`. Each has one file with its arguments and its code.

A command is a module with `HELP`, `add_arguments(parser)` and `run(options)`,
which returns the exit status. Modules import heavy libraries where they use
them, so that neither help nor an invalid argument starts JAX or TensorFlow.
"""
