"""Every way a command can end other than well. Each docstring says what the caller does next."""

from typing import ClassVar


class PhonolakeError(Exception):
    """Something failed; the run stays resumable: mend what the message names and run the same command again."""

    exit_code: ClassVar[int] = 1


class StoreError(PhonolakeError):
    """A store refused or did not answer; check address, credentials and space, then run again."""


class WarehouseError(PhonolakeError):
    """A catalog refused or did not answer; the lake is whole: mend what the message names and publish again."""


class RecipeError(PhonolakeError):
    """The recipe or the command is wrong; change what the message names."""

    exit_code = 2


class BudgetExceeded(PhonolakeError):
    """More recordings failed than limits.max_failed_fraction allows; look at them, mend or raise it, run again."""

    exit_code = 3


class OpenRunConflict(PhonolakeError):
    """An unsealed run was planned with another recipe; finish it with that one first."""

    exit_code = 4


class JobAtWork(PhonolakeError):
    """A job of this night is at work on the cluster; join it with --wait, or come back when it is over."""
