"""The operator console at /console: find people, see why they are who they are, set it right."""
