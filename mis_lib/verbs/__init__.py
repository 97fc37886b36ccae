"""The verbs of ``mis``, by what they are about: flags in, one call of the library, what it returns shown.

Heavy modules are imported inside the verb that needs them, so that ``mis --help`` answers at once. Long flags carry underscores, several
values may follow one flag (``--images a.png b.png``), ``--json`` prints for programs.
"""
