"""What the engine asks SQLite for is looked up, however long the ledger is."""

from tests.identity.lab import Lab


def plans(lab: Lab, name: str, asked: list[str]) -> list[str]:
    """How SQLite finds the rows of a statement's tables, as it was asked."""
    statements = [sql for sql in asked if sql.startswith(f"/* {name} */")]
    assert statements, name
    return [row[3] for sql in statements for row in lab.rows(f"explain query plan {sql}")]


def test_facts_of_a_profile_are_found_without_reading_the_whole_ledger(lab: Lab) -> None:
    lab.login(1, "jo")
    lab.login(2, "anna")
    asked: list[str] = []
    lab.store.db.set_trace_callback(asked.append)
    lab.login(1, "anna")
    lab.merge("jo", "anna", op="m")
    lab.undo("m")
    lab.delete("jo")
    lab.store.db.set_trace_callback(None)
    for name in ("ledger.graph", "ledger.of_nodes"):
        found = [plan for plan in plans(lab, name, asked) if " ledger " in plan]
        assert found and all("seq=?" in plan for plan in found), found
