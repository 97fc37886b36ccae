"""How the embedded model's base is made: ``mis build --train base``.

Its adapters come from ``mis train`` and ``configs/mini-*.yaml``, and are taken in by ``mis build --train ship``.

Everything is drawn, dreamed and distilled on the training machine: pictures of the concepts in many drawing styles
(``pictures``), photographs dreamed from the ImageNet classifier's own weights (``dream``), texts from rules and from
the language model itself (``curriculum``, ``distil``). One flat loop (``loop``) trains projector and low-rank update
(``lowrank``).
"""
