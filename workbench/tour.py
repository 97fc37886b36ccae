"""The first-run tour: a step for each tab."""

TOUR = (
    (
        "compare",
        "Compare",
        "asks several variants of a model the same question about the same images, side by side. Pick an example, press Compare.",
    ),
    (
        "annotate",
        "Annotate",
        "is where people decide what an answer is worth, by keyboard, without seeing the judge. <kbd>?</kbd> lists the keys.",
    ),
    (
        "results",
        "Results",
        "shows what runs scored, always beside what it cost in refused harmless requests. A number of the flip matrix opens its items.",
    ),
    (
        "data",
        "Data",
        "browses data sets with their benign twins, checks them, and makes one item live, stage by stage.",
    ),
    (
        "train",
        "Train",
        "starts a fine-tuning as a process of its own and shows losses and safety as they arrive; compare it with the base when it is done.",
    ),
)


def tour() -> str:
    """The first-run tour, hidden until the script finds that this browser has not seen it."""
    steps = "".join(
        f'<p class="mis-tour-step" hidden><b>{number} of {len(TOUR)}</b> <a class="mis-link" href="?tab={tab}" data-link>{name}</a> {text}</p>'
        for number, (tab, name, text) in enumerate(TOUR, 1)
    )
    return (
        f'<section class="mis-tour" hidden aria-label="First steps"><div>{steps}</div><span>'
        '<button type="button" class="mis-link" data-tour="next">Next</button>'
        '<button type="button" class="mis-link" data-tour="skip">Skip</button></span></section>'
    )
