"""The state machines of client and server, and their messages."""
