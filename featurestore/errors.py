"""The errors that users see: one line each, with the object, what was found, what was wanted, and what to do next."""


class HeimdallError(Exception):
    """Something failed that the message explains; the process exits with `exit_code` and prints no traceback."""

    exit_code = 1


class UsageError(HeimdallError):
    """An option, a parameter or a file given by the user is not usable."""

    exit_code = 2


class DataQualityError(HeimdallError):
    """The input is too poor to build from; nothing was published."""

    exit_code = 3


class StoreError(HeimdallError):
    """An object in the store is missing, damaged or not what it should be."""


class ShortObjectError(StoreError):
    """An object ends before the bytes that were asked for."""


class ServiceUnavailableError(HeimdallError):
    """A server does not answer; the same command can succeed later (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or else its kind: for messages that quote it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
