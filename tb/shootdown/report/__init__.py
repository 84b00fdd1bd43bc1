"""What runs come to: measures, verdicts, tables, plots, pages of the documentation."""
