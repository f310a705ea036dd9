"""Errors a user can act on."""


class UserError(Exception):
    """Bad input or configuration, said in one line that names the file, row or key.

    Entry points print it without a traceback and exit with status 2 (:mod:`ppr_dist.cli`).
    """
