"""The command line: what a command takes, from the fields of its configurations."""
