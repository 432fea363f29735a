"""The one error that a person is meant to read."""


class FarrierError(Exception):
    """One line that says what was given, what is allowed and what to do.

    The command line prints it without a traceback and ends with ``status``
    (2: the input was refused and nothing changed; 1: it was tried and failed).
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
