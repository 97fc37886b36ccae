"""Harm, and what denies it."""

import re

# what a person cannot do is forbidden ("you cannot harm her"), what a thing cannot do is denied ("it cannot harm you"); so is "nobody should"
NEGATORS = (
    r"\b(?:(?:don't|do not) (?:think|believe|see|feel)(?: (?:that|why|how|there|it|this|is|would|could|be|any)){0,5}|(?:no one|nobody|none)(?! (?:should|must|may|deserves|ought|wants?)\b)|no(?! one\b)|not|never|nothing|neither|nor|hardly|without|zero"
    r"|isn't|aren't|wasn't|didn't|doesn't|won't|don't|free of|free from|instead of|rather than|avoids?|prevents?|preventing|reduces?|reducing|against|from"
    r"|minimi[sz]e|protects?|worth|(?:ignor|disregard|deny|doubt|underestimat|overlook|downplay)\w*|forget"
    r"|(?<!\byou )(?<!\bi )(?<!\bwe )(?<!\bone )(?:can't|cannot|couldn't|wouldn't|shouldn't)(?! be (?:used|done|put|brought)))\b"
)
NEGATOR = re.compile(NEGATORS)
# the harm that follows is denied; not in "not only risky", "nothing more dangerous", "no small risk"
NEGATION = re.compile(
    rf"(?:{NEGATORS}(?: \w+){{0,2}} )?{NEGATORS}(?! (?:is |are )?(?:only|just|merely|simply|more|less|but|short|small)\b)(?: \w+){{0,3}} $"
)
WAIVED = re.compile(r"(?:-free| worth)\b")
NOBODY = re.compile(
    r"\b(?:nothing|nobody|no one|none|neither|no \w+)(?: of (?:the )?\w+)? $|\b(?:don't|do not) (?:think|believe|see|feel) [\w ]*$"
)
HARM = re.compile(
    r"\b(?<!non-)(?:danger(?:s|ous|ously)?|endanger\w*|hazard(?:s|ous)?|unsafe|not safe|risk(?:s|y|ing|ed)?|harm(?:s|ful|ing|ed)?|injur(?:y|ies|e|es|ed"
    r"|ing|ious)|illegal(?:ly)?|unlawful(?:ly)?|against the law|crimes?|criminal(?:s|ly)?|unethical|immoral|violat\w+|wrongful|lethal|deadly|fatal"
    r"(?:ly)?|toxic|poison(?:s|ous|ing|ed)?|cruel\w*|abus(?:e|es|ed|ive|ing)|hateful|hatred|racist|racism|sexist|sexism|discriminat\w+"
    r"|offensive|demean\w*|degrad(?:e|es|ing|ed)|humiliat\w+|threat(?:s|en|ens|ening|ened)?|fraud\w*|theft|thieves|steal(?:s|ing)?|stolen"
    r"|suicid\w+|self-harm|overdos\w+|trauma\w*|hurt(?:s|ing|ful)?|victims?|suffer(?:s|ing|ed)?|bully\w*|harass\w*|stalk(?:ing|ers?|ed)|blackmail\w*"
    r"|exploit(?:s|ing|ation|ed)?|traffick\w+|coerc\w+|intimidat\w+|invasion of privacy|(?:serious|privacy|ethical|legal|safety|security) (?:\w+ )?(?:concerns|violations?)|invad(?:e|es|ing)|without (?:their|his|her|your"
    r"|any|the \w+'s|proper)?\s?(?:consent|permission|knowledge|knowing)|burglar\w*|robber\w*|vandali\w+|arson|violen(?:t|ce|tly)|riots?"
    r"|stereotyp\w+|prejudice|mock(?:s|ed|ing|ery)?|never (?:agreed|chose|consented|wanted|asked)|no right to|without asking|confidential\w*|tamper\w*|reckless\w*|drunk driving|drownings?"
    r"|sneer\w*|shames|smear(?:s|ed)? (?:on|against|campaign)|shun\w*|merciless|destroys|kills|electric current|laughs at|dirty trick|hated|hateful|malicious\w*|illicit|counterfeit\w*|forg(?:ed|ery|eries|ing)|hack(?:s|ed|er|ers|ing)|malware|phish\w*|sabotag\w+"
    r"|impersonat\w+|identity thieves|spy(?:ing|ware)?|spies|voyeur\w*|covert(?:ly)?|in secret|secretly|against (?:their|his|her|your|someone's|anyone's) will"
    r"|captiv\w+|enslav\w*|slavery|forced labou?r|kidnap\w*|abduct\w*|smuggl\w+|drug (?:abuse|dealing|trade|dealers?)|addict(?:s|ed|ion)|intruders?|intrusion"
    r"|break-ins?|breach\w*|eavesdrop\w*|surveill?\w*|dehumani[sz]\w*|objectif\w+|demeaning|inferior|second-class|bigot\w*|slurs?|xenophob\w*|misogyn\w*"
    r"|massacre\w*|murder\w*|assault\w*|terroris\w+|bloodshed|brutal\w*|savage\w*|self-destruct\w*|punishable|felony|misconduct|extort\w*"
    r"|brib\w+|launder\w*|looting|loot|mobs?|ridicul\w+|scorn\w*|contempt\w*|hostil\w+|nasty|ashamed|disrespect\w*|graffiti|disfigur\w+"
    r"|desecrat\w+|offend\w*|belittl\w+|despis\w+|mortal|peril\w*|gamble|grave (?:act|injur\w+|accident|danger|threat)|dreadful|garbage|rubbish|makes? fun of|electric shock|deface\w*|torment\w*|betray\w*|dishonest\w*|deceiv\w+|insult\w*|vermin|unsafe)\b"
)
MODAL = re.compile(
    r"\b(?:could|may|might|would|can|will|risks?|likely|able to|easily|lets?|makes?|leaves?|turns?|causes?|leads?|threatens?|means?)\b(?!'t)"
)
SUPPOSING = re.compile(
    r"\b(?:could|may|might|would(?! (?:suit|like|look|love|be (?:an? )?(?:\w+ )?(?:fun|good|great|nice|lovely|perfect|lively|funny|best|ideal|useful))))\b"
)
BAD_END = re.compile(
    r"\b(?:burn\w*"
    r"|(?:a|catch\w*|on|start\w*|set\w*|caus\w+|of|to|in) fires?(?! (?:engine|extinguisher|truck|fighter|station|department))|alight|ignit\w+|explo\w+|blow|blast\w*|kill\w*|die|dies|death|poison\w*|damag\w+|destroy\w*|destruct\w+|ruin\w*|steal\w*|stole\w*"
    r"|break\w*|broken|wound\w*|cut|cuts|stab\w*|shock\w*|electrocut\w+|current|drown\w*|chok\w+|suffocat\w+|sick\w*|ill|illness|infect\w*"
    r"|diseas\w+|attack\w*|crash\w*|collaps\w+|bleed\w*|pain\w*|scar(?:e|es|ed|ing|y|red|s)?|fright\w+|terrif\w+|terror\w*|panic\w*|fear\w*"
    r"|spy\w*|expos\w+|leak\w*|trick\w*|deceiv\w+|scam\w*|rob|robbed|trap\w*|forced?|punish\w*|jail|arrest\w*|prison|fined|charges?|trouble"
    r"|los(?:e|es|ing|s|t)|addict\w*|dependen\w+|intoxicat\w+|impair\w*|accidents?|emergenc\w+|hospital|mislead\w*|insult\w*|mock\w*|shame\w*"
    r"|sham(?:e|ing)|exclu\w+|chaos|deface\w*|short circuit|malfunction\w*|isolat\w+|despair|hopeless\w*|worthless\w*|anxi\w+|depress\w+|lonel\w+"
    r"|bruis\w+|fractur\w+|blind\w*|maim\w*|flood\w*|starv\w+|allerg\w+|contaminat\w+|crush\w*|kidnap\w*|smuggl\w+|betray\w*|distress\w*"
    r"|stop your heart|misus\w+|unconscious|vomit\w*|seizure\w*|tremors?|stampede|hate|harm\w*|hurt\w*|injur\w+|danger\w*|smash\w*|wreck\w*"
    r"|spoil\w*|empt(?:y|ied|ies)|drain\w*|strangers?|unaware|watched|followed|tracked|recorded|filmed|identif\w+|locked (?:in|up|out)|disappear\w*"
    r"|worse\w*|obsess\w*|spiral\w*|shame\w*|guilty|numb\w*|sleepless\w*|cut off|withdraw\w*|unsafe|unwell|overwhelm\w*|beaten|bleeding|crushed|trampl\w+"
    r"|shot|shooting|bullets?|stabb\w+|injection|overdos\w*|high|hooked|relaps\w*|dealers?|drugs?|illegal\w*|punch\w*|slap\w*|strangl\w+|hostage\w*|tortur\w*"
    r"|damage|loot\w*|evacuat\w+|outbreak|epidemic|radiation|tumou?rs?|cancer|coma|paralys\w+|permanent\w*|ashamed|excluded|silenc\w+|demean\w*|stereotyp\w*"
    r"|weaker|inferior|unequal|unpaid|worth less|embarrass\w*|nude|naked|undress\w*|intimate|exploit\w*|manipulat\w+|lure[ds]?|luring|blackmail\w*|hack\w*"
    r"|password\w*|accounts? (?:be )?(?:emptied|drained|taken)|jolts?|electrif\w+|electric|cramp\w*|faint\w*|fingers|eyesight|sharp|struck|short of breath|short-circuit\w*|rejected|unsafe|drunk|prey|stain\w*|costly|marks?|ash|flames?|overstimulat\w*|blacken\w*|wipe out|torment\w*|weaken\w*|helpless\w*|ban|banned|sue|sued|lawsuit|lawsuits|guilt\w*|grief|crime|risk)\b"
)
OFFERED_ABILITY = re.compile(
    r"\b(?:you|one|we) (?:can|could|may|might|will) (?:also |then |now )?\w+|\bcan be used\b|\bcould be used to make\b"
)
_EVENT = (
    r"(?:electrocution|explosions?|fires?(?! (?:engine|extinguisher|truck|fighter|station|department))|blaze|deaths?|(?:electric )?shocks?|burns|injur\w+|accidents?"
    r"|disasters?|harm|illness|panic|pain|suffering|distress)"
)
_MAY = r"(?<!you )(?<!we )(?<!one )(?:can|could|may|might|will|would)(?: easily| also| even| quickly)?"
# harm told as what a thing brings about ("a spark can set it on fire"); counts in statements alone, for an order may aim at it
CAUSED = re.compile(
    rf"\b(?:(?:{_MAY} (?:cause|lead to|result in|end in|set off|trigger|spark|start)|causes|leads to|results in|ends in|sets off|triggers|causing|leading to|resulting in)"
    rf"(?: [\w-]+){{0,4}}? {_EVENT}"
    rf"|(?:{_MAY} set|sets)(?: [\w']+){{1,5}} (?:on fire|alight|ablaze)|(?<!let it )(?<!to )catch(?:es)? fire"
    rf"|{_MAY} (?:ignite|explode|electrocute|kill|blow up|burn down)|ignites|explodes|electrocutes|to blow up)\b"
)
