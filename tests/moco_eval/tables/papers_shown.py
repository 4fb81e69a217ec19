"""A paper's table as the words of its rows, to be compared with a block of text."""

from moco_eval.tables import papers


def shown(paper_id, records=(), beside=None):
    """Labels and cells from the top left, without spaces in cells; ``.`` is an empty one."""
    grid = papers.grid(paper_id, records, beside=beside or {})
    words = []
    for row in grid.rows:
        words += row.label.split()
        for entry in row.entries:
            delta = f"({entry.delta})" if entry.delta else ""
            text = f"{entry.text}{delta}{entry.marks}".replace(" ", "").replace("−", "-")
            words.append(text or ".")
    return words
