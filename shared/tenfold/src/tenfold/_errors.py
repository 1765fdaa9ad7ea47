"""Exceptions and warnings shared by every room; imports nothing of ours."""


def first_line(error: BaseException) -> str:
    """What an error says in its first line; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class SlowPathWarning(UserWarning):
    """An op runs its Python reference because the compiled kernel is not available."""


class UserInputError(ValueError):
    """The user's file or configuration is wrong; command lines turn it into exit code 2.

    The message is one sentence that names the file (or option) and the field.
    """


class MissingExtraError(ImportError):
    """An optional dependency is missing; command lines turn it into exit code 4.

    The message holds the pip line that installs it.
    """
