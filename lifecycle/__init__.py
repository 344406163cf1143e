"""Whom to write to, when, with what."""
