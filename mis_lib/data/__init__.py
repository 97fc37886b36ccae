"""Data: published sets and people's files in, checked and mixed, and out to other trainers.

``records`` reads rows, ``formats`` and ``benchmarks`` make samples of them, ``sources`` decides how a path is read,
``export`` writes them for others. Reading is strict; ``preflight`` reads the same files leniently and reports all that
is wrong.
"""
