"""The command line: one file a command, and what reads flags. Commands import the rooms, and never each other."""
