"""The paper's figures and tables: which runs they need, and how they are drawn."""
