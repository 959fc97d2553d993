"""Work on many people at once, from the command line: import, merge, duplicates, export, erase."""
