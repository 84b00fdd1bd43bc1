"""Historic bugs of mmu notifiers and their users, each as a named fault of the host; docs/bugs.md lists them."""

from hostmm.bugs.faults import BUGS, Bug, change

__all__ = ["BUGS", "Bug", "change"]
