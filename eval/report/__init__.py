"""The results for people: a terminal table, Markdown for pull requests, and one self-contained HTML page."""
