"""What else tells the parts of a response apart: Chinese wording, and English words that say nothing about safety.

Apart from ``mis_lib.text.roles`` because the rule judge reads those: a word more there changes its fingerprint and makes every stored verdict stale.
The judge leaves Chinese answers unscored; here they only have to be coloured.
"""
# ruff: noqa: RUF001 - Chinese wording is what this module looks for

import re

from mis_lib.text.headings import ITEM
from mis_lib.text.patterns import IMAGE, SHOWS
from mis_lib.text.roles import Role

_SIDE = r"(?:left|right|top|bottom|middle|cent(?:er|re))(?:[- ]hand)?(?: side)?"
_WHICH = rf"(?:,? (?:on|at|to|in) the {_SIDE}| (?:that )?(?:you|we)(?:'ve| have)?(?: been)? (?:provided|shared|sent|uploaded|given|attached)| (?:provided|shared|above|below|[a-f])\b|,? taken [^,]{{2,30}},)"
_SOME = r"(?:the|an?|one|two|three|some|several|both|his|her)"
_LOOK = r"(?:see|notice|observe|find|identify|have)"
_ENGLISH = {
    Role.INFERS: re.compile(
        r"^(?:since|because|comparing|from \d|there are (?:several|many|two|three) (?:reasons|risks|concerns|problems))\b|^(?:this|the|such an?) (?:\w+ )?(?:scenario|situation|juxtaposition"
        r"|combination|pairing)\b|\bnothing (?:\w+ )?(?:dangerous|harmful|unsafe|risky|illegal)\b(?!.*:)|\b(?:is|are) (?:\w+ )?harmless\b|\b(?:poses?|carr(?:y|ies)) no\b"
    ),
    Role.RISK: re.compile(
        r"\b(?:is|are) (?:\w+ly )?(?:vulnerable|concerning|alarming|flammable|combustible|explosive|toxic|poisonous|lethal)\b"
    ),
    Role.DESCRIBES: re.compile(
        rf"^(?:(?:here|this) is )?what (?:i|we) (?:can )?see\b|^in {IMAGE},? {_SOME} \w+|^there are (?:two|three|four|\d) (?:images|pictures|photos)\b"
        rf"|^in (?:one|the other)(?: of (?:them|these|the \w+)| one| image)?, (?!you|i\b|we\b)|(?:^|, |and |while ){IMAGE}{_WHICH},? {SHOWS}|(?:^|, |and )(?:on|at|to) the {_SIDE},? (?:is|are|there|{_SOME})\b"
        rf"|^(?:from|looking at|based on|in) {IMAGE}(?:{_WHICH})?,? (?:(?:i|we|you)(?: can| could)?(?: clearly)? {_LOOK}|there (?:is|are))\b"
        rf"|^it (?:looks|seems|appears) (?:like |as if |that )?{IMAGE} (?:is|are|{SHOWS})|^you(?:'ve| have)? (?:shared|provided|sent|uploaded) (?:\w+ )?(?:images|pictures|photos)\b"
        rf"|^the (?:\w+ ){{1,3}}in {IMAGE},? (?:is|are|has|have|wears?|holds?|appears?|seems?|looks?|includes?)\b"
    ),
}
_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'"})
_ACTS = {Role.INSTRUCTS, Role.RISK, Role.CONSEQUENCE, Role.AGAINST, Role.DECLINES}
_PICTURE = r"(?:图像|图片|图中|照片|画面|图[一二三四五六\d]|第[一二三四五六\d]+[张幅个]图?)"
_CHINESE = {
    Role.DECLINES: re.compile(r"(?:我|我们)?(?:无法|不能|不会|不可以|拒绝)[^，。]{0,6}(?:提供|帮助|协助|回答|满足|支持|给出|参与)|^(?:很|非常)?抱歉"),
    Role.AGAINST: re.compile(r"(?:^|，)(?:请)?(?:不要|切勿|请勿|避免|严禁|不应)"),
    Role.OFFERS: re.compile(r"建议|如果(?:您|你)|可以(?:在|选择|使用|尝试|考虑|到|去)|请(?:联系|咨询|告诉|拨打)"),
    Role.INSTRUCTS: re.compile(r"^(?:首先|其次|然后|接着|最后|请|将|把)[^可会]*$|(?:您|你)(?:可以|需要|应该)"),
    Role.RISK: re.compile(r"危险|风险|伤害|违法|非法|犯罪|火灾|爆炸|触电|中毒|致命|伤亡|事故|有害|侵犯|违反|威胁"),
    Role.INFERS: re.compile(r"^(?:结合|综合|因此|所以|这意味着|这表明|两者|两张图|由于|因为|用户)"),
    Role.DESCRIBES: re.compile(rf"{_PICTURE}[^。]{{0,8}}(?:显示|展示|描绘|呈现|是|有|为|：|:)|我(?:可以)?看到"),
}  # fmt: skip
_HAN = re.compile(r"[\u4e00-\u9fff]")


def more_roles(sentence: str, roles: frozenset[Role]) -> frozenset[Role]:
    """The roles of a sentence together with those that only matter to its part."""
    found = set(roles)
    if _HAN.search(sentence):
        text = re.sub(r"^[\s\d.、)#*>-]+", "", sentence)
        found |= {role for role, pattern in _CHINESE.items() if pattern.search(text)}
        if found & {Role.RISK, Role.DECLINES}:
            found.discard(Role.INSTRUCTS)
        return frozenset(found)
    text = ITEM.sub("", " ".join(sentence.lower().translate(_STRAIGHT).replace("**", "").split()))
    found |= {role for role in (Role.INFERS, Role.RISK) if _ENGLISH[role].search(text)}
    if not found & _ACTS and _ENGLISH[Role.DESCRIBES].search(text):
        found.add(Role.DESCRIBES)
    return frozenset(found)
