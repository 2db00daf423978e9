"""The report of a benchmark: tables, figures, sentences and the page."""
