-- What changed nothing, by age: retention looks for it without reading the whole ledger.

create index ledger_inert on ledger (site_id, seq) where inert = 1;
