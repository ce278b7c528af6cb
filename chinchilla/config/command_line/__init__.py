"""From the words of the command line to the dataclass of a command."""
