"""Programs as tables and pictures."""
