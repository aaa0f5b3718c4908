"""Compose, time, record and resume measured runs."""
