"""Vero's Track API v2, as its clients call it."""
