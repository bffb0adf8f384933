"""Engines: ways to run a program stage by stage, with only its messages between the places."""
