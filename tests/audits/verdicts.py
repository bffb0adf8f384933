"""The checker's answer to a case of the corpus."""

import audits


def arguments(case):
    return [audits.Arg(*a) for a in case.args]


def judged(case, fn=None, args=None):
    """The report of a case, or of another function or other arguments under its settings."""
    return audits.check(
        fn or case.fn,
        args or arguments(case),
        style=case.style,
        mode=case.mode,
        wrt=case.wrt,
        profile=case.profile,
    )
