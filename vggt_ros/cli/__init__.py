"""Command lines: `replay`, `evaluate`, `export`, `benchmark` and `parity`.

Each takes arguments and files, and calls the sub-package that does the work. It prints the result, writes
files where asked to, and returns the exit status; an error is one line on stderr that names the file or argument.
"""
