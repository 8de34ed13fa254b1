"""What `import traklens` offers: stores to ask, and answers that a notebook can show."""
