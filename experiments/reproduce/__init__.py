"""The paper's figures and tables: their runs, their drawings and the README's tables.

A figure is a file in `figures/`, with its runs and its drawing, and a line in
`registry`; a row of the table of results or of targets is an entry in `tables/`.
"""
