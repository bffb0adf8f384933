"""Certificates, their envelopes and keys."""
