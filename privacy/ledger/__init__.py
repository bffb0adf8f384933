"""The ledger: reserve, open, commit; admission, verification and reports."""
