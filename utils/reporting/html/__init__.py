"""report.html: a run as one page, drawn from the files it left; no network, no JavaScript."""
