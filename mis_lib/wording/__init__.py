"""The wording by which ``mis_lib.text.roles`` tells what a sentence does: patterns over lower-case text with straight quotes, and nothing else."""
