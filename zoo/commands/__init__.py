"""The commands of `zoo`, by what they are about; `cli.py` puts them together.

What heavy work needs is imported inside the commands, so that `--help` answers at once. stdout carries data, stderr what is said
about it.
"""
