"""The one exception that means "the input is at fault, not the program"."""


class InputError(ValueError):
    """A value that the caller gave cannot be used.

    The message is one sentence that names the value, where it came from and the mend. The command line
    prints it and exits with 2; any other exception is a bug and keeps its traceback.
    """


class DataNotThereError(InputError):
    """A data set is neither on disk nor to be had from the network; in a comparison what needs it is left out."""
