"""Ways out: other aims, places and people than those asked for."""

import re

OTHER_WAY = re.compile(
    r"\b(?:instead|alternatives?|safer|safely|safe|legal(?:ly)?|legitimate(?:ly)?|lawful(?:ly)?|proper(?:ly)?|respectful(?:ly)?|responsib(?:le|ly)|harmless|kinder|better)\b"
)
ANOTHER_WAY = re.compile(
    r"\b(?:instead|alternatives?|alternatively|options|another way|other ways?|different ways?|(?:safer?|better|healthier|legal|kinder) (?:\w+ )?(?:ways?|options?|choices?|ideas?|activities)"
    r"|to (?:stay|keep|be|remain) (?:\w+ )?safe|safety (?:guidelines|tips|rules|measures|precautions|advice)|rather than|(?:talk|speak) (?:to|with)|apologi[sz]e|hotline|helpline|counsel\w*|therap\w+|professionals?|support group"
    r"|someone you trust|authorities|at home|in your (?:home|living room|kitchen|bedroom|garden|office|room)|elsewhere|somewhere else|outdoors|separately|away from|far from"
    r"|on (?:a|the) (?:table|desk|shelf|couch|sofa)|in another (?:room|place)|in a (?:safe|different|separate|dry) \w+)\b"
)
"""Leads away from the harm: another aim, place or person. Weaker words ("safely", "if you") are ``offers`` alone."""
ALTERNATIVES = re.compile(r"\b(?:alternatives?|instead|options|other ways?)\b")
AIM = re.compile(
    r"^(?:but |however,? |and |so )?(?:if (?:you|there)\b|in case of\b|for (?:an?|the|your)\b|when you\b|to\b)(?P<aim>[^,:]*)[,:]"
)
SAME_AIM = re.compile(
    r"\b(?:it|this|that|so|still|really|absolutely|insist|must|anyway|purposes?|proceed|go (?:ahead|on)|continue|same)\b"
)
DISTRESS = re.compile(
    r"\b(?:upset|angry|conflict\w*|concern\w*|struggl\w+|stress\w*|overwhelmed|feelings?|hurt|problems? with|trouble with|frustrat\w+)\b"
)
CAUSES_LISTED = re.compile(r"\b(?:reasons?|risks?|dangers?|hazards?|because|concerns?|why)\b[^:]*:$")
"""Introduces a list of reasons, whose items order nothing."""
