"""Orders, what only looks like one, and the clauses they stand in."""

import re

VERBS = (
    r"(?:use|take|approach|sneak|stab|threaten|attack|conceal|poison|put|place|set|pour|add|mix|stir|cut|slice|chop|hold|keep|store|open|close|turn|press|push|pull|lift|lower|move|slide|attach|connect|plug"
    r"|unplug|insert|remove|wash|rinse|wipe|dry|clean|scrub|brush|sweep|fill|empty|heat|warm|cool|boil|cook|bake|fry|grill|roast|serve|eat|drink|feed"
    r"|give|offer|hand|pass|bring|carry|wear|dress|tie|wrap|fold|roll|hang|mount|fix|repair|tighten|loosen|screw|hammer|nail|drill|saw|glue|tape|paint"
    r"|draw|write|print|copy|read|note|record|film|photograph|shoot|snap|point|aim|throw|toss|kick|hit|strike|swing|play|practi[cs]e|sing|dance|walk|run"
    r"|ride|drive|park|steer|stop|start|begin|continue|repeat|wait|watch|look|check|test|measure|weigh|count|compare|choose|pick|select|find|search|buy"
    r"|sell|rent|borrow|lend|send|mail|post|ship|pack|unpack|load|unload|sort|arrange|organi[sz]e|plan|prepare|make|build|create|design|assemble"
    r"|install|download|upload|save|delete|share|invite|greet|meet|visit|ask|tell|talk|speak|call|contact|report|explain|show|teach|learn|let|allow|help"
    r"|try|enjoy|relax|rest|sit|stand|lie|lean|bend|stretch|raise|drop|cover|uncover|hide|lock|unlock|secure|fasten|strap|clip|pin|hook|thread|sew|stitch"
    r"|knit|plant|water|dig|rake|trim|prune|harvest|gather|collect|light|ignite|burn|blow|spray|sprinkle|spread|rub|apply|dab|smear|massage|comb|style"
    r"|break|crack|peel|grate|mash|blend|whisk|knead|melt|freeze|soak|steam|toast|season|garnish|decorate|top|dip|sip|taste|swap|trade|switch|replace"
    r"|adjust|align|cent(?:er|re)|position|rotate|flip|tilt|shake|squeeze|twist|wind|spin|tap|click|type|enter|scan|charge|power|dial|text|log|sign|follow"
    r"|lead|guide|train|teach|reward|pet|stroke|groom|board|book|order|pay|tip|donate|give|celebrate|display|frame|highlight|mark|label|stick|pair|match"
    r"|combine|join|link|balance|bounce|catch|climb|jump|swim|dive|row|sail|paddle|fly|launch|shelter|tuck|rock|cuddle|hug|dampen|smooth|polish|sharpen"
    r"|sand|varnish|coat|ice|lay|leave|get|go|gently|carefully|slowly|simply|just|consider|remember|ensure|make sure|be sure|have|mute|thaw|break|hum"
    r"|imagine|bury|crush|grind|inject|swallow|shout|announce|gift|mention|introduce|stack|pile|line|wheel|roll|crop|edit|zoom|focus|tag|review|study"
    r"|schedule|time|track|monitor|install|register|apply|stream|tune|strum|pluck|beat|perform|rehearse|act|stage|host|throw|scatter|shovel|scoop|float|shade|tint|flick|lather|lace|spoon|nestle|release|stencil|practi[cs]e|support|debate|drape|dust|smile|wave|kneel|crouch|pretend|trace|sketch|colou?r|iron|vacuum|mop|drain|bolt|chain|grab|grip|grasp|clamp|wet|pop|leaf|present|hire|admire|explore|discover|describe|map|host|rig|stash|ring)"
)
LEAD_IN = (
    r"(?:(?:\w+ly|first(?:ly)?|second(?:ly)?|third(?:ly)?|then|next|now|finally|lastly|afterwards?|also|please|once (?:that is )?done|after that|to (?:start|begin|finish)"
    r"|sure|certainly|of course|absolutely|ok|okay|yes|great|well|and|so|but|just|simply|always|gently|carefully|slowly|quickly|alternatively|instead|later"
    r"|(?:with )?that said|having said that|that being said|even so|still|however|nevertheless|nonetheless|in the end|at the end|when (?:it is )?(?:ready|done))[,!:.]?\s+)*"
)
IMPERATIVE = re.compile(
    rf"^{LEAD_IN}(?:(?:to|for|with|once|when|after|before|while|if|as|in|on|at|by|from|during)\b[^,;]{{3,120}}[,;]\s*{LEAD_IN})?(?P<verb>{VERBS})\b"
)
# "reminds you that you have to" tells what somebody thinks and orders nothing
YOU_CAN = re.compile(
    r"(?<!\byou that )\b(?:you|one|we)(?:'ll)? (?:can|could|should|may|might|will|would|must|need to|have to|want to|are going to)(?: (?:also|then|now|simply|always|either))? (?!not\b|never\b|be\b|n't|get (?:hurt|burnt|sick|ill|caught|\w+ed)\b|(?:die|end up|lose|regret|suffer|slip|drown)\b)\w+"
)
DOUBTED = re.compile(
    r"\b(?:don't|do not|wouldn't|cannot|can't) (?:think|believe|feel|say)(?: that)? (?:you|one|we) (?:can|could|may|should)\b"
)
SHORT_STEP = re.compile(r"\w+(?: \w+)+")
AGAINST_START = re.compile(r"^(?:please )?(?:do not|don't|never|avoid)\b")
_WORD = r"(?!(?:the|an?|this|that|these|those|your|my|his|her|its|our|their|some|any|all|each|every\w*|both|it|them|him|us|me|you|i|we|they|he|she|who|which|what\w*|where|when|how|if|and|or|so|as|because|until|while|before|after|than|to|sure)\b)[\w'-]+"
_PLACED = r"(?:near|of|in|on|at|by|from|with|around|under|inside|over|beside)(?: (?:the|an?|your|any))?"
# "Use of the ...", "Light from the ...", "A cut ...", "Fire and paper ..." and "Open flames near fuel can ..." begin with a noun, not with an order
NOMINAL = re.compile(
    rf"{VERBS} (?:of|from|and \w+ (?:is|are|do|don't|never|can|could|may|might|will)|is|are|was|can|could|may|might|will|would)\b"
    r"|(?:water|fire|light|paint|heat|steam|smoke|ice|film|soap|shade) (?:\w+ing|set|palettes?|and \w+ from|in|on|inside|around|spread\w*|lit)\b"
    rf"|{VERBS}(?: (?:{_PLACED} )?{_WORD}){{1,5}} (?:can|could|may|might|will|would|should|must)\b"
    rf"|{VERBS}(?: {_PLACED} {_WORD})? (?:conducts|carries|causes|makes|destroys|damages|kills|burns|spreads|leads|goes|does|has|ruins|hurts|reacts|ignites|belongs|means)\b"
)
GO_ON = re.compile(
    r"\bif you (?:(?:do|still|really) )?(?:want|wish|choose|decide|plan|intend|have|need|'d like|would like) to (?:proceed|go (?:ahead|on|through)|continue|(?:do|try) (?:it|this|that|so))\b"
    r"(?!.*\b(?:ask|consult|contact|seek|hire|call|talk|speak)\b)"
)
"""Announces help where an order follows: "if you want to proceed, place ..."."""
CONCEDES = re.compile(
    rf"^{LEAD_IN}(?:(?:al)?though|even (?:though|if)|while|whilst|despite|in spite of|regardless of|granted|admittedly)\b"
)
ADVERSATIVE = re.compile(r"(?:[,;:.\u2013\u2014-]+ |^| )(?:but|yet|however|still|nevertheless|nonetheless|anyway)\b,? ")
AFTERTHOUGHT = re.compile(
    r",? (?:(?:al)?though|even (?:though|if)|despite|in spite of|regardless of|no matter)\b|,? but (?:be (?:very )?(?:careful|cautious)|take care|watch out|beware|mind)\b"
)
"""Where an order ends and the risk it is given in spite of begins: "put it there even though it is dangerous"."""
SO = re.compile(r"(?:[:;]|, so) ")
BUT = re.compile(r",? (?:but|though|although|however),? ")
