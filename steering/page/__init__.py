"""A page of findings as a value, and the same page as Markdown and as one HTML file that fetches nothing.

The card of a probe and the report of an evaluation are both such pages, so it stands below the two; matplotlib, which
draws their plots, comes with the extras of either.

document  a page of sections of blocks of marked words
theme     how plots look; a plot as PNG, or as SVG in the colours of the page around it
markdown  the page as GitHub reads it
webpage   the page as one HTML file
"""
