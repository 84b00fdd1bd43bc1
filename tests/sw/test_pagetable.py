"""Page tables: what the timeline tells of their pages."""

from hostmm.machine.timeline import Row
from tests.sw.hosts import Host

VPN = 0x40_0433


def test_tables_are_linked_and_unlinked():
    """A row for each, with the first page below it; the root goes last."""
    host = Host()
    mm = host.machine.new_mm()

    def main():
        mm.tables.alloc(VPN)
        mm.tables.free_tables()
        yield 1

    host.run(main())
    rows = host.rows(Row.TABLE)
    linked = [(row["vpn"], row["a"]) for row in rows if row["tag"]]
    assert linked == [(0, 2), (0x40_0000, 1), (0x40_0400, 0)]
    gone = [(row["vpn"], row["a"]) for row in rows if not row["tag"]]
    assert sorted(gone) == sorted(linked)
    assert gone[-1] == (0, 2)
    assert {row["mm"] for row in rows} == {mm.number}
