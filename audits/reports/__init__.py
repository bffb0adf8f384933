"""Reports: one check, told to a person, a program, a code host or a browser.

`text` for a terminal, `json` for tools, `sarif` for code scanning, `github` for annotations of a
pull request, `html` for one self-contained page. All of them read `audits.Report`; none decides.
"""
