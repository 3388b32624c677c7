"""The commands `export`, `releases …` and `predict`: one file each, which imports what it needs when it runs."""
