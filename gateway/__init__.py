"""A self-hosted, first-party tracking gateway: knows the visitor, decides who is who, and can take it back."""

__version__ = "0.1.0"
