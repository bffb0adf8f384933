"""Reports: the result of a check for a terminal, a tool, a code host or a browser.

`text` for a terminal, `json` for tools, `sarif` for code scanning, `github` for annotations of a
pull request, `html` for one self-contained page. All of them format an `audits.Report` and make no
decisions.
"""
