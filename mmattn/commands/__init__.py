"""The commands, one module each: `add_arguments(parser)`, and `run(args)`, which may return an exit status.

They parse arguments and word what is found; the work is done in the other rooms. No command imports another.
"""
