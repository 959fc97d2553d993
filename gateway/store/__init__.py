"""Where everything is kept: one contract, one set of statements, one module per database."""
