"""What is chosen on the Results tab, as a value and as a place that others can open."""

from collections.abc import Sequence
from typing import NamedTuple

from mis_lib.results.metrics import ALL
from workbench.links import Link, Tab

OVERVIEW, CHANGES, JUDGES, ITEM = "overview", "changes", "judges", "item"
VIEWS = (OVERVIEW, CHANGES, JUDGES, ITEM)
GROUP_CHOICES = [("category", "category"), ("sub-category", "sub_category"), ("split", "split")]


class Choice(NamedTuple):
    """What is chosen, in the order of ``Parts.choosers``."""

    view: str
    runs: Sequence[str] | None = ()  # None before any were set
    group: str = ALL
    published: bool = False
    run: str = ""
    judge: str = ""
    before: str = ""
    after: str = ""
    by: str = "category"
    metric: str = "asr"
    ablation: str = ""
    item: str = ""

    def link(self, usual: Sequence[str] = ()) -> Link:
        """The place of this choice; what goes without saying, such as the ``usual`` runs, is left out."""
        if self.view == OVERVIEW:
            runs = () if list(self.runs or ()) == list(usual) else tuple(self.runs or ())
            published = "yes" if self.published else ""
            return Link(tab=Tab.RESULTS, view=self.view, split=self.group, runs=runs, published=published)
        if self.view == ITEM:
            return Link(tab=Tab.RESULTS, view=self.view, run=self.ablation, item=self.item)
        place = Link(tab=Tab.RESULTS, view=self.view, run=self.run, judge=self.judge)
        if self.view == JUDGES:
            return place.model_copy(update={"metric": "" if self.metric == "asr" else self.metric})
        by = "" if self.by == "category" else self.by
        return place.model_copy(update={"variants": (self.before, self.after), "by": by})
