"""The paper's figures and tables: their runs, their drawings and the README's tables.

A figure is a file beside this one, with its runs and its drawing, and a line in
`registry`.
"""
