"""Who is who: pure rules, the ledger's fold, and the engine that loads, decides and saves."""
