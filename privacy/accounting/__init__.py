"""Privacy accounting: terms, events and their prices. Sources: docs/ledger-slots.md."""
