"""The rules: catalogue, findings and documentation pages."""
