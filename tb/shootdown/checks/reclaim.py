"""Which mm paths decide about reclaim."""

__all__ = ["RECLAIM_PATHS", "YOUNG_PATHS"]

RECLAIM_PATHS = ("try_to_unmap_one", "try_to_unmap_cluster")
"""Paths that unmap a page because nobody seems to use it."""

YOUNG_PATHS = ("page_referenced_one", *RECLAIM_PATHS)
"""Paths that ask whether anybody does."""
