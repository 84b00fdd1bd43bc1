"""The page-table walker and its walk cache."""
