"""The exception and the warning that are addressed to the person at the keyboard."""


class UserError(ValueError):
    """Bad input from outside the program: a file, a data set, a command-line value.

    The message is one line that names the thing, says what came, and what was expected or what to
    do. The command line prints it as ``focaldet: error: <message>`` and exits with code 2, without
    a traceback.
    """


class EndedElsewhere(UserError):
    """The same error on the ranks that it did not happen on.

    The rank that it happened on has printed it: the command line exits with code 2, and prints
    nothing.
    """


class Diverged(UserError):
    """Losses or gradients that are not finite, too many steps in a row."""


class DataWarning(UserWarning):
    """What befell the data, on which a run goes on: something was left out, or loaded again.

    The message is one line that names it. Worker processes leave it to the main process to say.
    """
